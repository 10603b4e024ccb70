"""One JSON object around the list of rows."""

import json
from pathlib import Path

import pytest

from tests.trainer.data.conftest import scanned, table_rows
from tests.trainer.data.plain_table import prepare_table
from trainer.core.errors import DataError

ROWS = [{"u": f"u{number}", "i": 'a]}\\"[{', "t": number, "tags": [{"id": number}]} for number in range(1, 6)]
KEYS = 'path = "rows.json"\ntimestamp = "t"'


@pytest.mark.parametrize(
    "document",
    [
        {"data": ROWS},
        {"next": None, "count": 5, "results": ROWS, "links": {"self": "x"}, "warnings": []},
        {"response": {"page": {"number": 1}, "rows": ROWS}, "took": 3},
        {"schema": {"fields": [{"name": "u"}, {"name": "i"}]}, "data": ROWS},
        {"user": {"u": "not a row"}, "data": ROWS},
    ],
    ids=["data", "results", "nested", "pandas", "with another object"],
)
@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_the_rows_of_the_list_are_read(tmp_path: Path, document: object, indent: int | None, end: str):
    text = json.dumps(document, indent=indent)
    (tmp_path / "rows.json").write_bytes(text.replace("\n", end).encode())
    rows = table_rows(prepare_table(tmp_path, KEYS), "interactions")
    assert [(row["user_id"], row["item_id"], row["timestamp"]) for row in rows] == [
        (row["u"], row["i"], int(str(row["t"])) * 1_000_000) for row in ROWS
    ]


def test_a_bad_row_is_named_with_its_line(tmp_path: Path):
    rows = [*ROWS, {"u": None, "i": "b", "t": 9}]
    (tmp_path / "rows.json").write_text(json.dumps({"data": rows}, indent=1))
    report = prepare_table(tmp_path, KEYS).report.file("interactions")
    line = (tmp_path / "rows.json").read_text().split("\n").index('   "u": null,')
    assert [(bad.line, bad.kind) for bad in report.bad_lines] == [(line, "missing_user")]


def test_a_large_document_is_read_in_pieces(tmp_path: Path):
    rows = [{"text": "é" * 500, "u": f"u{number}", "i": "a", "t": number} for number in range(20_000)]
    (tmp_path / "rows.json").write_text(json.dumps({"next": None, "data": rows, "end": True}, ensure_ascii=False))
    assert prepare_table(tmp_path, KEYS).report.file("interactions").rows_kept == 20_000


def test_items_and_their_lists_of_objects_stay_rows(tmp_path: Path):
    (tmp_path / "rows.json").write_text('{"u": "u", "i": "a", "t": 1}\n')
    item = {"id": "a", "title": "A", "genres": [{"id": 18, "name": "Drama"}]}
    (tmp_path / "items.json").write_text(json.dumps(item, indent=1))
    sections = '[items]\npath = "items.json"\nid = "id"\ntitle = "title"\ncategories = "genres"'
    with pytest.raises(DataError, match=r"items.json: 'id' are in the one object and in its list 'genres'"):
        prepare_table(tmp_path, KEYS, sections=sections)
    del item["genres"]
    (tmp_path / "items.json").write_text(json.dumps({**item, "genres": [{"name": "Drama"}]}))
    prepared = prepare_table(tmp_path, KEYS, sections=sections)
    assert [(row["item_id"], row["categories"]) for row in table_rows(prepared, "items")] == [("a", ["Drama"])]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"a": [{"x": 1}], "b": [{"y": 2}]}', "several lists of objects, 'a', 'b': write the rows with 'u' and 'i'"),
        (
            '{"data": {"7": {"u": 1, "i": 2}}}',
            "one object without 'u' and 'i' and without a list of objects has 'data'",
        ),
        ('{"columns": ["u", "i"], "data": [[1, 2]]}', "has 'columns': a list, 'data': a list"),
        ('{"data": [{"u": 1, "i": 2}, {"u": 1', "line 1: not JSON"),
        ('{"data": [{"u": 1, "i": 2}], "x": ]}', "line 1: not JSON after the list 'data'"),
        ('{"data": [{"u": 1, "i": 2}]', "line 1: not JSON"),
    ],
)
def test_what_is_found_instead_is_said(tmp_path: Path, text: str, message: str):
    (tmp_path / "rows.json").write_text(text)
    with pytest.raises(DataError) as failed:
        prepare_table(tmp_path, KEYS)
    assert "rows.json" in str(failed.value)
    assert message in str(failed.value)


def test_json_lines_are_read_in_place(tmp_path: Path):
    lines = [json.dumps({"u": number, "i": 1, "data": [{"u": 9, "i": 9}]}) for number in range(3)]
    (tmp_path / "rows.json").write_text("\n".join(lines))
    found = scanned(tmp_path / "work", tmp_path / "rows.json")
    assert (len(found.rows), found.num_copies) == (3, 0)
