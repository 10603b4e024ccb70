"""JSON that is not one object per line."""

import json
import random
from array import array
from pathlib import Path

import pytest

from tests.trainer.data.conftest import scanned
from trainer.core.errors import DataError
from trainer.data.json_documents import one_per_line

OBJECTS = [{"u": f"u{n}", "i": {"a": [n, 'x]}\\"']}, "t": "ü東\n" * (n % 4)} for n in range(500)]
WRITTEN = {
    "array": json.dumps(OBJECTS, ensure_ascii=False),
    "array of lines": "[\n" + ",\n".join(map(json.dumps, OBJECTS)) + "\n]\n",
    "lines that begin with commas": "[" + "\n,".join(map(json.dumps, OBJECTS)) + "]",
    "indented array": json.dumps(OBJECTS, indent=2, ensure_ascii=False),
    "indented objects": "\n".join(json.dumps(one, indent=4) for one in OBJECTS),
    "an array below blank lines": "\n \n" + json.dumps(OBJECTS, indent=1),
}


@pytest.mark.parametrize("form", WRITTEN)
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_every_object_is_a_row(tmp_path: Path, form: str, end: str):
    path = tmp_path / "rows.json"
    path.write_bytes(WRITTEN[form].replace("\n", end).encode())
    found = scanned(tmp_path / "work", path)
    assert [json.loads(str(row[0])) for row in found.rows] == OBJECTS
    lines = WRITTEN[form].split("\n")
    if form == "array":
        assert found.lines == [1] * 500
    else:
        starts = [index for index, line in enumerate(lines, start=1) if line.lstrip(" ,[").startswith('{"u"')]
        starts = starts or [index for index, line in enumerate(lines, start=1) if line in {"{", "  {", " {"}]
        assert found.lines == starts


@pytest.mark.parametrize("size", [1, 7, 100, 5_000])
def test_objects_may_be_cut_anywhere(size: int):
    content = WRITTEN["indented array"].encode()
    lines: array[int] = array("I")
    chunks = [content[start : start + size] for start in range(0, len(content), size)]
    assert [json.loads(line) for line in one_per_line(chunks, Path("x"), lines)] == OBJECTS
    assert len(lines) == 500


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ('[{"u": 1},\n{"u": 2},\n{"u": }\n]', 3),
        ('[{"u": 1},\n{"u": 2}\n', 3),
        ('[{"u": 1},\n\n{"u": "not ended\n', 3),
        ('[{"u": 1}]\nmore', 2),
        ("[\n" + '{"u": 1},\n' * 3_000 + "oops,\n" + '{"u": 1},\n' * 3_000 + "]", 3_002),
    ],
)
def test_what_is_no_json_is_named_with_its_line(tmp_path: Path, text: str, line: int):
    (tmp_path / "rows.json").write_text(text)
    with pytest.raises(DataError, match=rf"rows\.json: line {line}: not JSON: "):
        scanned(tmp_path / "work", tmp_path / "rows.json")


def test_json_lines_that_are_no_objects_stay_lines(tmp_path: Path):
    (tmp_path / "rows.json").write_text('[1, 2]\n{"u": 1}\n')
    found = scanned(tmp_path / "work", tmp_path / "rows.json")
    assert (found.rows, found.num_copies) == ([("[1, 2]",), ('{"u": 1}',)], 0)


def test_an_empty_array_has_no_rows(tmp_path: Path):
    (tmp_path / "rows.json").write_text("[\n]\n")
    assert scanned(tmp_path / "work", tmp_path / "rows.json").rows == []


def test_large_arrays_are_read_in_pieces(tmp_path: Path):
    generator = random.Random(1)
    objects = [{"u": n, "text": "é" * generator.randrange(3_000)} for n in range(9_000)]
    (tmp_path / "rows.json").write_text(json.dumps(objects, ensure_ascii=False))
    found = scanned(tmp_path / "work", tmp_path / "rows.json")
    assert [json.loads(str(row[0]))["u"] for row in found.rows] == list(range(9_000))
