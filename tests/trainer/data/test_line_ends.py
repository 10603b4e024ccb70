"""Line ends of every kind and mixture, NUL bytes and Ctrl-Z, with exact line numbers."""

import gzip
import random
from pathlib import Path

import pytest

from tests.trainer.data.conftest import Scanned, scanned
from tests.trainer.data.plain_table import prepare_table

ENDS = {"lf": ["\n"], "crlf": ["\r\n"], "cr": ["\r"], "crcrlf": ["\r\r\n"], "mixed": ["\n", "\r\n", "\r", "\r\r\n"]}


def joined(lines: list[str], ends: list[str]) -> str:
    generator = random.Random(1)
    return "".join(f"{line}{generator.choice(ends)}" for line in lines)


def read(tmp_path: Path, content: bytes | str, name: str = "rows.csv") -> Scanned:
    path = tmp_path / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return scanned(tmp_path / "work", path, ["u", "i"] if name.endswith("csv") else [])


@pytest.mark.parametrize("ends", ENDS)
@pytest.mark.parametrize("has_end", [True, False])
def test_csv(tmp_path: Path, ends: str, has_end: bool):
    lines = ["u,i", *(f"u{n},i{n}" for n in range(2, 1_001))]
    lines[99], lines[499], lines[999] = "u", "", 'u1000,"a ""b"""'
    content = joined(lines, ENDS[ends])
    found = read(tmp_path, content if has_end else content.rstrip("\r\n"))
    assert found.lines == [n for n in range(2, 1_001) if n not in {100, 500}]
    assert (found.refused, found.num_refused) == ([100], 1)
    assert found.rows[-1] == ("u1000", 'a "b"')
    assert found.num_copies == (0 if ends in {"lf", "crlf"} else 1)


@pytest.mark.parametrize("ends", ENDS)
def test_json_lines(tmp_path: Path, ends: str):
    lines = [f'{{"u": {n}}}' for n in range(1, 1_001)]
    found = read(tmp_path, joined(lines, ENDS[ends]), "rows.jsonl")
    assert [row[0] for row in found.rows] == lines
    assert found.lines == list(range(1, 1_001))


def test_two_exports_one_after_the_other(tmp_path: Path):
    """The second has other line ends."""
    lines = [f"u{n},i{n}" for n in range(60_000)]
    found = read(tmp_path, "u,i\n" + "\n".join(lines[:50_000]) + "\n" + "\r\n".join(lines[50_000:]) + "\r\nbad\r\n")
    assert [f"{u},{i}" for u, i in found.rows] == lines
    assert (found.lines[-1], found.refused) == (60_001, [60_002])


@pytest.mark.parametrize(("outside", "inside"), [("\r\n", "\n"), ("\n", "\r\n"), ("\r", "\n"), ("\r\n", "\r")])
def test_other_line_ends_inside_of_quotes(tmp_path: Path, outside: str, inside: str):
    """Excel ends lines with CRLF, and breaks lines inside of a cell with LF."""
    lines = ["u,i", f'u1,"a{inside}b"', "u2,c", "bad", "u3,d"]
    found = read(tmp_path, outside.join(lines))
    assert found.rows == [("u1", "a\nb"), ("u2", "c"), ("u3", "d")]
    assert (found.lines, found.refused) == ([2, 4, 6], [5])


@pytest.mark.parametrize("end", ["\x1a", "\x1a\x1a", "\r\n\x1a"])
def test_ctrl_z_at_the_end_is_no_line(tmp_path: Path, end: str):
    found = read(tmp_path, f"u,i\r\nu1,i1\r\nu2,i2{end}")
    assert found.rows == [("u1", "i1"), ("u2", "i2")]
    assert found.num_refused == 0


def test_lines_with_nul_bytes_are_counted(tmp_path: Path):
    lines = [b"u,i", b"u2,i2", b"u3,\0i3", b"u4,i4", b"\0" * 50, b"u6,i6"]
    found = read(tmp_path, b"\n".join(lines) + b"\n" + b"\0" * 4_000_000)
    assert found.rows == [("u2", "i2"), ("u4", "i4"), ("u6", "i6")]
    assert found.lines == [2, 4, 6]
    assert (found.refused, found.num_refused) == ([3, 5, 7], 3)
    assert found.texts[0] == "NUL bytes: u3,i3"


@pytest.mark.parametrize("name", ["rows.csv", "rows.jsonl"])
def test_a_line_of_more_than_16_mib_is_counted(tmp_path: Path, name: str):
    is_csv = name.endswith("csv")
    long = b'"' + b"x" * 40_000_000
    lines = [b"u,i", b"u2,i2", long, b"u4,i4"] if is_csv else [b"{}", b"{}", long, b"{}"]
    found = read(tmp_path, b"\n".join(lines), name)
    assert found.lines == ([2, 4] if is_csv else [1, 2, 4]) or found.lines == [1, 2, 3, 4]
    assert (found.refused, found.num_refused) == ([3], 1)
    assert found.texts[0].startswith("a line of more than 16 MiB: ")


@pytest.mark.parametrize("packed", [False, True])
def test_a_last_line_without_an_end_is_noted(tmp_path: Path, packed: bool):
    """The file was cut within the last time, which is a time all the same."""
    text = b"u,i,t\na,x,1700000000\nb,y,17000"
    (tmp_path / "r.csv").write_bytes(gzip.compress(text) if packed else text)
    report = prepare_table(tmp_path, 'path = "r.csv"\ntimestamp = "t"').report.file("interactions")
    assert (report.rows_kept, report.noted) == (2, {"no_last_line_end": 1})
    assert "1  noted: no_last_line_end (files whose last line has no end" in report.to_text()
