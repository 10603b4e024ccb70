"""Imports between folders go one way, and the top folder of a program contains only its entry points.

import-linter (`pyproject.toml`) fixes the order of the top-level packages of each program. These tests check every
folder of the repository, at any depth, including tests and benchmarks.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import pytest

from tests.architecture.import_graph import SourceTree

_ROOT: Final = Path(__file__).resolve().parents[2]

_FOLDERS: Final = ("inference_server", "trainer", "feature_sync", "deploy", "benchmarks", "tests")

_MAX_FILES_IN_A_TOP_FOLDER: Final = 8

_STAGES: Final = "inference_server.request.stages"


@pytest.fixture(scope="module")
def repository() -> SourceTree:
    return SourceTree.under((_ROOT, _FOLDERS), (_ROOT / "protos", ["tandem"]))


def _write(root: Path, files: dict[str, str]) -> SourceTree:
    for name, text in files.items():
        path = root / "shop" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return SourceTree.under((root, ["shop"]))


def test_no_folders_import_each_other_in_a_circle(repository: SourceTree) -> None:
    assert repository.folder_cycles() == []


def test_every_folder_with_code_is_checked(repository: SourceTree) -> None:
    for folder in (*_FOLDERS, "tandem"):
        assert any(module.startswith(f"{folder}.") for module in repository.files), folder


@pytest.mark.parametrize(
    "program", ["inference_server", "trainer", "feature_sync", "deploy", "benchmarks", "protos/tandem"]
)
def test_a_top_folder_has_few_files(program: str) -> None:
    files = sorted(path.name for path in (_ROOT / program).glob("*.py"))
    assert len(files) <= _MAX_FILES_IN_A_TOP_FOLDER, files


def test_no_stage_of_a_request_imports_another_stage(repository: SourceTree) -> None:
    stages = {module for module in repository.files if module.startswith(f"{_STAGES}.")}
    assert len(stages) > 1
    assert [found for found in repository.imports() if found.importer in stages and found.imported in stages] == []


@pytest.mark.parametrize(
    "statement",
    [
        "from shop.front.till import sell\n",
        "import shop.front.till\n",
        "from shop.front import till\n",
        "from ..front import till\n",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from shop.front import till\n",
        "def late():\n    from shop.front import till\n",
    ],
    ids=["from module", "import", "from package", "relative", "type checking", "in a function"],
)
def test_a_circle_is_found_however_it_is_imported(tmp_path: Path, statement: str) -> None:
    tree = _write(
        tmp_path,
        {
            "front/__init__.py": "",
            "front/till.py": "from shop.store.shelf import take\n",
            "store/__init__.py": "",
            "store/shelf.py": statement,
        },
    )
    (circle,) = tree.folder_cycles()
    assert len(circle) == 2
    assert any("shelf.py" in line and line.endswith("imports shop.front.till") for line in circle)
    assert any("till.py:1 imports shop.store.shelf" in line for line in circle)


def test_every_circle_is_found_import_by_import(tmp_path: Path) -> None:
    tree = _write(
        tmp_path,
        {
            "front/till.py": "import json\n\nfrom shop.yard.gate import open_gate\n",
            "yard/gate.py": "from shop.store.shelf import take\n",
            "store/shelf.py": "from shop.front.till import sell\nfrom shop.office.desk import sign\n",
            "office/desk.py": "from shop.store import shelf\n",
        },
    )
    circles = {frozenset(line.removeprefix(f"{tmp_path}/shop/") for line in circle) for circle in tree.folder_cycles()}
    assert circles == {
        frozenset(
            {
                "front/till.py:3 imports shop.yard.gate",
                "yard/gate.py:1 imports shop.store.shelf",
                "store/shelf.py:1 imports shop.front.till",
            }
        ),
        frozenset({"store/shelf.py:2 imports shop.office.desk", "office/desk.py:1 imports shop.store.shelf"}),
    }


def test_imports_that_go_one_way_are_no_circle(tmp_path: Path) -> None:
    tree = _write(
        tmp_path,
        {
            "front/till.py": "from shop.store.shelf import take\nfrom shop.front.bell import ring\n",
            "front/bell.py": "from shop.store import shelf\n",
            "store/shelf.py": "import json\n",
        },
    )
    assert tree.folder_cycles() == []
    assert set(tree.folder_imports()) == {("shop.front", "shop.store")}


def test_no_file_or_folder_is_named_after_nothing(repository: SourceTree) -> None:
    words = {part for module in repository.files for part in module.split(".")}
    assert words & {"util", "utils", "helper", "helpers", "common", "misc", "shared", "manager", "base_utils"} == set()
