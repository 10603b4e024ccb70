"""Files that were written one after the other into one: their headers, byte order marks, arrays and pages."""

import json
from pathlib import Path

import pytest

from tests.trainer.data.conftest import csv_text, jsonl_text, table_rows
from tests.trainer.data.plain_table import prepare_table

ROWS = [{"u": f"u{number}", "i": f"i{number}", "t": number} for number in range(1, 7)]
JSON_KEYS = 'path = "rows.json"\ntimestamp = "t"'


def pairs_of(prepared) -> list[tuple[object, object, object]]:
    rows = table_rows(prepared, "interactions")
    return [(row["user_id"], row["item_id"], int(str(row["timestamp"])) // 1_000_000) for row in rows]


EXPECTED = [(row["u"], row["i"], row["t"]) for row in ROWS]


@pytest.mark.parametrize("mark", ["", "\ufeff"], ids=["plain", "with byte order marks"])
@pytest.mark.parametrize("quote", ["", '"'], ids=["bare", "quoted"])
def test_the_header_of_a_joined_file_is_no_row(tmp_path: Path, mark: str, quote: str):
    parts = [csv_text(ROWS[:3]), csv_text(ROWS[3:])]
    lines = [",".join(f"{quote}{value}{quote}" for value in line.split(",")) for line in "".join(parts).splitlines()]
    lines[0], lines[4] = mark + lines[0], mark + lines[4]
    (tmp_path / "r.csv").write_text("\n".join(lines) + "\n")
    # Without numbers, nothing else would show that a header is no row.
    prepared = prepare_table(tmp_path, 'path = "r.csv"\nfile_order = true\n')
    report = prepared.report.file("interactions")
    assert (report.dropped, report.rows_bad, report.rows_kept) == ({"repeated_header": 1}, 0, 6)
    assert [(user, item) for user, item, _ in pairs_of(prepared)] == [(user, item) for user, item, _ in EXPECTED]


def test_neither_a_second_header_nor_a_line_of_dashes_is_an_item(tmp_path: Path):
    (tmp_path / "r.csv").write_text(csv_text(ROWS))
    items = "id,title,kind\n--,-----,----\n" + "".join(f"i{number},Item {number},--\n" for number in range(1, 7))
    (tmp_path / "it.csv").write_text(items + "id,title,kind\nid,A title,kind\n")
    sections = '[items]\npath = "it.csv"\nid = "id"\ntitle = "title"\nattributes = { kind = "kind" }\n'
    prepared = prepare_table(tmp_path, 'path = "r.csv"\ntimestamp = "t"\n', sections=sections)
    assert prepared.report.file("items").dropped == {"repeated_header": 2}
    assert [row["item_id"] for row in table_rows(prepared, "items")] == [f"i{number}" for number in range(1, 7)] + [
        "id"
    ]


def test_marks_between_json_lines_are_no_part_of_a_line(tmp_path: Path):
    (tmp_path / "rows.json").write_text("\ufeff" + jsonl_text(ROWS[:3]) + "\ufeff" + jsonl_text(ROWS[3:]))
    assert pairs_of(prepare_table(tmp_path, JSON_KEYS)) == EXPECTED


@pytest.mark.parametrize("indent", [None, 1])
@pytest.mark.parametrize("between", ["", "\n", "\n\n"])
def test_arrays_one_after_the_other_are_all_read(tmp_path: Path, indent: int | None, between: str):
    parts = [json.dumps(rows, indent=indent) for rows in (ROWS[:2], [], ROWS[2:])]
    (tmp_path / "rows.json").write_text(between.join(parts))
    assert pairs_of(prepare_table(tmp_path, JSON_KEYS)) == EXPECTED


@pytest.mark.parametrize("indent", [None, 1])
@pytest.mark.parametrize("key", ["data", "result.rows"])
def test_pages_one_after_the_other_are_all_read(tmp_path: Path, indent: int | None, key: str):
    outer, *inner = key.split(".")
    pages = [
        {"next": number, outer: {inner[0]: rows} if inner else rows, "user": {"u": "no row"}}
        for number, rows in enumerate((ROWS[:2], ROWS[2:3], ROWS[3:], []))
    ]
    (tmp_path / "rows.json").write_text("\n".join(json.dumps(page, indent=indent) for page in pages) + "\n")
    prepared = prepare_table(tmp_path, JSON_KEYS)
    assert pairs_of(prepared) == EXPECTED
    assert prepared.report.file("interactions").rows_read == len(ROWS)


def test_what_is_no_page_between_pages_is_a_bad_row_with_its_line(tmp_path: Path):
    pages = [{"data": ROWS[:3]}, {"error": "try again"}, {"data": [*ROWS[3:], {"u": "u9", "t": 9}]}]
    (tmp_path / "rows.json").write_text("".join(json.dumps(page) + "\n" for page in pages))
    prepared = prepare_table(tmp_path, JSON_KEYS)
    assert pairs_of(prepared) == EXPECTED
    bad = prepared.report.file("interactions").bad_lines
    assert [(line.line, line.kind) for line in bad] == [(2, "missing_user"), (3, "missing_item")]


def test_lines_whose_rows_hold_lists_of_objects_are_no_pages(tmp_path: Path):
    rows = [{**row, "parts": [{"u": "other", "i": "other"}]} for row in ROWS]
    (tmp_path / "rows.json").write_text(jsonl_text(rows))
    assert pairs_of(prepare_table(tmp_path, JSON_KEYS)) == EXPECTED
