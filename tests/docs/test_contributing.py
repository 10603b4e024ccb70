"""What contributors are told of the rooms and the recipes is what there is."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PROGRAMS = ("inference_server", "trainer", "feature_sync")


def _layers() -> dict[str, dict[str, int]]:
    """Layer of each room by program, from the table of CONTRIBUTING.md."""
    rows = re.findall(r"^\| (\d+) \|(.*)\|(.*)\|(.*)\|$", (ROOT / "CONTRIBUTING.md").read_text(), re.MULTILINE)
    layers: dict[str, dict[str, int]] = {program: {} for program in PROGRAMS}
    for layer, *cells in rows:
        for program, cell in zip(PROGRAMS, cells, strict=True):
            for room in re.findall(r"`(\w+)`", cell):
                assert room not in layers[program], f"{program}/{room} has two layers"
                layers[program][room] = int(layer)
    return layers


def _imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module is not None:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def test_the_table_of_rooms_names_every_room() -> None:
    for program, layers in _layers().items():
        rooms = {path.parent.name for path in (ROOT / program).glob("*/__init__.py")}
        assert set(layers) == rooms, program


def test_rooms_import_rooms_of_lower_layers_only() -> None:
    upward = []
    for program, layers in _layers().items():
        for path in (ROOT / program).rglob("*.py"):
            room = path.relative_to(ROOT / program).parts[0]
            for name in _imports(path) if room in layers else ():
                imported = name.split(".")[1] if name.startswith(f"{program}.") else None
                if imported in layers and imported != room and layers[imported] >= layers[room]:
                    upward.append(f"{path.relative_to(ROOT)} imports {name}")
    assert upward == []


def test_every_recipe_is_in_the_index_and_counts_its_files() -> None:
    folder = ROOT / "docs" / "contributing"
    recipes = sorted(path.name for path in folder.glob("*.md") if path.name != "README.md")
    index = (folder / "README.md").read_text()
    assert sorted(re.findall(r"^\| \[[^\]]+\]\(([\w-]+\.md)\) \| \d", index, re.MULTILINE)) == recipes
    assert [name for name in recipes if "Files touched: " not in (folder / name).read_text()] == []
