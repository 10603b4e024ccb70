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


def test_every_recipe_is_in_the_index_with_the_same_number_of_files() -> None:
    folder = ROOT / "docs" / "contributing"
    recipes = {path.name: path.read_text() for path in folder.glob("*.md") if path.name != "README.md"}
    index = dict(
        re.findall(r"^\| \[[^\]]+\]\(([\w-]+\.md)\) \| (.+) \|$", (folder / "README.md").read_text(), re.MULTILINE)
    )
    assert set(index) == set(recipes)
    for name, text in recipes.items():
        counts = re.findall(r"Files touched(?: in the server)?: (\d+)", text)
        assert counts, f"{name} does not say how many files it touches"
        assert index[name].startswith(counts[0]), name


def test_the_rows_of_the_request_fields_recipe_are_as_many_as_it_says() -> None:
    text = (ROOT / "docs/contributing/add-a-request-field.md").read_text()
    rows = re.findall(r"^\| ([\d, ]+) \| (.+?) \|", text, re.MULTILINE)
    numbers = [int(number) for row, _ in rows for number in row.split(",")]
    assert numbers == list(range(1, len(numbers) + 1))
    assert sum(files.count("`") // 2 for _, files in rows) == len(numbers)
    assert re.search(rf"Files touched: {len(numbers)}\b", text)
