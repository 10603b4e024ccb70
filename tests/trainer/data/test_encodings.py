"""Characters: every encoding of Python, byte order marks, and lines that do not decode."""

# ruff: noqa: RUF001 -- these characters are what is tested

import codecs
from pathlib import Path

import pytest

from tests.trainer.data.conftest import scanned, table_rows
from trainer.core.errors import ConfigError, DataError
from trainer.data.config import load_data_config
from trainer.data.encodings import proposed_encoding
from trainer.data.prepare import prepare

CONFIG = """
name = "small"
format = "table"
max_bad_share = 0.5
[interactions]
path = "rows.csv"
user = "u"
item = "i"
position = "p"
[items]
path = "items.csv"
encoding = "{encoding}"
id = "id"
title = "title"
"""
TEXTS = {
    "latin-1": "“Amélie” – 5 €…",
    "iso-8859-1": "’n ‘é’ ÿ",
    "windows-1252": "“Amélie” – 5 €",
    "iso-8859-15": "Œuvre à 5 €",
    "cp1250": "Zażółć gęślą jaźń",
    "windows-1251": "Война и мир",
    "koi8-r": "Мастер и Маргарита",
    "gb18030": "霸王别姬",
    "gbk": "卧虎藏龙",
    "big5": "悲情城市",
    "shift_jis": "千と千尋の神隠し ソ表",
    "euc-kr": "올드보이",
    "utf-16": "東京 😀",
    "utf-16-le": "東京 😀",
    "utf-16-be": "東京 😀",
    "utf-32": "東京 😀",
    "utf-8-sig": "東京 😀",
    "UTF8": "東京 😀",
    "mac-roman": "Amélie “é”",
    "cp850": "Ünïcode",
}


@pytest.mark.parametrize("encoding", TEXTS)
def test_an_encoding_is_read(tmp_path: Path, encoding: str):
    path = tmp_path / "items.csv"
    written = "cp1252" if encoding in {"latin-1", "iso-8859-1"} else encoding
    lines = ["id,title", *(f'{n},"{TEXTS[encoding]} {n}, ""x"""' for n in range(30_000)), "broken", "z,z"]
    path.write_bytes("\r\n".join(lines).encode(written))
    found = scanned(tmp_path / "work", path, ["title"], encoding=encoding)
    assert found.rows == [*((f'{TEXTS[encoding]} {n}, "x"',) for n in range(30_000)), ("z",)]
    assert (found.refused, found.lines[-1]) == ([30_002], 30_003)


def test_latin_1_has_a_character_for_every_byte(tmp_path: Path):
    path = tmp_path / "items.csv"
    content = bytes(byte for byte in range(1, 256) if byte not in b'\r\n",\x1a')
    path.write_bytes(b"id,title\n1," + content + b"\n")
    found = scanned(tmp_path / "work", path, ["title"], encoding="latin-1")
    (title,) = found.rows[0]
    assert (len(str(title)), found.num_refused) == (len(content), 0)
    assert {"\x81", "€", "”", "ÿ"} <= set(str(title))


@pytest.mark.parametrize("encoding", ["utf-8", "latin-1"])
@pytest.mark.parametrize(
    ("mark", "codec"),
    [
        (codecs.BOM_UTF8, "utf-8"),
        (codecs.BOM_UTF16_LE, "utf-16-le"),
        (codecs.BOM_UTF16_BE, "utf-16-be"),
        (codecs.BOM_UTF32_LE, "utf-32-le"),
        (codecs.BOM_UTF32_BE, "utf-32-be"),
    ],
)
@pytest.mark.parametrize("kind", ["csv", "jsonl", "json"])
def test_a_byte_order_mark_decides(tmp_path: Path, encoding: str, mark: bytes, codec: str, kind: str):
    text = {
        "csv": '"id",title\n1,é東\n2,x\n',
        "jsonl": '{"id": 1, "title": "é東"}\n{"id": 2}\n',
        "json": '[{"id": 1, "title": "é東"},\n{"id": 2}]\n',
    }[kind]
    path = tmp_path / f"items.{kind}"
    path.write_bytes(mark + text.encode(codec))
    found = scanned(tmp_path / "work", path, ["id", "title"] if kind == "csv" else [], encoding=encoding)
    assert found.rows[0] == (("1", "é東") if kind == "csv" else ('{"id": 1, "title": "é東"}',))
    assert (len(found.rows), found.num_refused) == (2, 0)


@pytest.mark.parametrize("codec", ["utf-16-le", "utf-16-be"])
def test_utf_16_without_a_mark_is_named(tmp_path: Path, codec: str):
    path = tmp_path / "items.csv"
    path.write_bytes("id,title\n1,a longer title\n".encode(codec))
    with pytest.raises(DataError, match=rf'items\.csv: not UTF-8, but UTF-16 without .*; set encoding = "{codec}"'):
        scanned(tmp_path / "work", path, ["id"])
    assert scanned(tmp_path / "work", path, ["title"], encoding=codec).rows == [("a longer title",)]


@pytest.mark.parametrize(
    ("encoding", "bad"),
    [
        ("utf-8", b"caf\xe9"),
        ("windows-1252", b"\x81"),
        ("shift_jis", b"\xff\xff"),
        ("ascii", b"\xe9"),
        ("gb18030", b"\xff"),
    ],
)
@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_lines_that_do_not_decode_are_counted(tmp_path: Path, encoding: str, bad: bytes, kind: str):
    path = tmp_path / f"items.{kind}"
    lines = [b'{"id": "%d", "title": "t"}' % n if kind == "jsonl" else b"%d,t" % n for n in range(100)]
    for number in (10, 11, 60):
        lines[number] = b'{"id": "x", "title": "' + bad + b'"}' if kind == "jsonl" else b"x," + bad
    path.write_bytes(b"\n".join([b"id,title" if kind == "csv" else b"", *lines]))
    found = scanned(tmp_path / "work", path, ["id", "title"] if kind == "csv" else [], encoding=encoding)
    assert (found.refused, found.num_refused) == ([12, 13, 62], 3)
    kept = [line for line in range(2, 102) if line not in found.refused]
    assert [line for line, row in zip(found.lines, found.rows, strict=True) if row[0]] == kept  # without blank lines
    hint = 'is not UTF-8; encoding = "windows-1252" probably fits' if encoding == "utf-8" else "has bytes that are not"
    assert hint in found.hints[0]


@pytest.mark.parametrize("encoding", ["windows-1252", "windows-1251", "gb18030", "shift_jis", "euc-kr"])
def test_the_encoding_that_fits_is_proposed(encoding: str):
    lines = [b"plain", "schön in UTF-8".encode(), TEXTS[encoding].encode(encoding)]
    assert proposed_encoding(lines) == encoding


def test_the_report_proposes_the_encoding(write, tmp_path: Path):
    write("rows.csv", "u,i,p\n1,10,0\n")
    write("items.csv", "id,title\n10,café\n11,b\n".encode("latin-1"))
    config = load_data_config(str(write("data.toml", CONFIG.format(encoding="utf-8"))), {"max_bad_share": "0.4"})
    with pytest.raises(DataError, match=r"50\.00% of the lines of .*items\.csv") as failure:
        prepare(config, tmp_path / "cache")
    assert 'hint: items.csv is not UTF-8; encoding = "windows-1252" probably fits' in str(failure.value)
    config = load_data_config(str(tmp_path / "data.toml"), {"items.encoding": "windows-1252"})
    titles = {row["item_id"]: row["title"] for row in table_rows(prepare(config, tmp_path / "cache"), "items")}
    assert titles == {"10": "café", "11": "b"}


def test_a_header_that_does_not_decode_is_an_error(write, tmp_path: Path):
    path = write("items.csv", "id,größe\n1,b\n".encode("latin-1"))
    with pytest.raises(DataError, match=r'names the columns, .* not utf-8; set encoding = "windows-1252"'):
        scanned(tmp_path / "work", path, ["id"])


@pytest.mark.parametrize("encoding", ["", "latin-77", "rot13", "base64", "idna", "unicode_escape", "zip"])
def test_other_encodings_are_refused(write, encoding: str):
    with pytest.raises(ConfigError, match=r"items\.encoding: .*no encoding of that name; for example utf-8, utf-16"):
        load_data_config(str(write("data.toml", CONFIG.format(encoding=encoding))), {})


@pytest.mark.parametrize("codec", ["utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize("name", ["data.toml", "DATA.TOML", "Data.Toml"])
def test_a_description_with_a_byte_order_mark_is_read(tmp_path: Path, codec: str, name: str):
    path = tmp_path / name
    path.write_bytes(CONFIG.format(encoding="utf-8").encode(codec))
    assert load_data_config(str(path), {}).name == "small"
