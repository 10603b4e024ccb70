"""The records of decisions agree with their index."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

FOLDER = Path(__file__).resolve().parents[2] / "docs" / "decisions"
INDEX = (FOLDER / "README.md").read_text()
RECORDS = sorted(path.name for path in FOLDER.glob("*.md") if path.name != "README.md")


def test_every_record_is_in_the_index_once() -> None:
    entries = re.findall(r"^- \[(\d{4})\]\((\d{4}-[a-z0-9-]+\.md)\): ", INDEX, re.MULTILINE)
    assert [name for number, name in entries if not name.startswith(number)] == []
    assert sorted(name for _, name in entries) == RECORDS


def test_a_number_and_a_name_belong_to_one_record() -> None:
    for parts in ([name[:4] for name in RECORDS], [name[5:] for name in RECORDS]):
        assert [part for part, count in Counter(parts).items() if count > 1] == []


def test_the_title_of_a_record_begins_with_its_number() -> None:
    wrong = [name for name in RECORDS if not (FOLDER / name).read_text().startswith(f"# {name[:4]}: ")]
    assert wrong == []


def test_every_number_that_is_not_used_is_named_in_the_index() -> None:
    used = {int(name[:4]) for name in RECORDS}
    gaps = set(range(1, max(used) + 1)) - used
    assert {int(number) for number in re.findall(r"^- (\d{4}): ", INDEX, re.MULTILINE)} == gaps
