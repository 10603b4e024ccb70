"""CONTRIBUTING.md and the recipes agree with the packages and files of the repository."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PROGRAMS = ("inference_server", "trainer", "feature_sync")


def test_the_table_of_packages_agrees_with_import_linter() -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    linted = {
        contract["containers"][0]: [
            set(re.findall(r"\w+", layer)) for layer in contract["layers"] if layer != "__main__"
        ]
        for contract in contracts
        if contract["type"] == "layers"
    }
    rows = re.findall(r"^\| \d+ \|(.*)\|(.*)\|(.*)\|$", (ROOT / "CONTRIBUTING.md").read_text(), re.MULTILINE)
    for program, column in zip(PROGRAMS, zip(*rows, strict=True), strict=True):
        layers = [set(re.findall(r"`(\w+)`", cell)) for cell in column]
        assert [layer for layer in layers if layer] == linted[program]


def test_every_recipe_is_in_the_index_and_counts_its_files() -> None:
    folder = ROOT / "docs" / "contributing"
    recipes = sorted(path.name for path in folder.glob("*.md") if path.name != "README.md")
    index = (folder / "README.md").read_text()
    assert sorted(re.findall(r"^\| \[[^\]]+\]\(([\w-]+\.md)\) \| \d", index, re.MULTILINE)) == recipes
    assert [name for name in recipes if "Files touched: " not in (folder / name).read_text()] == []
