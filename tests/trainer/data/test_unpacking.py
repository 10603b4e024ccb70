"""What a file is, is told by its content: packed, damaged, or of a kind that cannot be read."""

import bz2
import gzip
import io
import lzma
import tarfile
import zipfile
from pathlib import Path
from typing import Final

import pyarrow as pa
import pytest

from tests.trainer.data.conftest import parquet_bytes, scanned, table_rows
from trainer.core.errors import ConfigError, DataError
from trainer.data.config import load_data_config
from trainer.data.prepare import prepare

LINES = ["u,i,n", *(f"u{n},i{n},{n}" for n in range(2, 20_002))]
LINES[9_999] = "broken"
CONTENT = "\n".join(LINES).encode()
KEPT = [n for n in range(2, 20_002) if n != 10_000]


def zipped(files: dict[str, bytes]) -> bytes:
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return sink.getvalue()


def members(content: bytes) -> bytes:
    """Two members of gzip, cut in the middle of a line."""
    middle = len(content) // 2 + 1
    return gzip.compress(content[:middle]) + gzip.compress(content[middle:])


PACKED = {
    "gzip": gzip.compress(CONTENT),
    "members": members(CONTENT),
    "padded": gzip.compress(CONTENT) + b"\0" * 700,
    "padded-between": members(CONTENT) + b"\0" * 3,
    "bzip2": bz2.compress(CONTENT),
    "bzip2-streams": bz2.compress(CONTENT[:5_000]) + bz2.compress(CONTENT[5_000:]),
    "xz": lzma.compress(CONTENT),
    "zstandard": pa.compress(CONTENT, codec="zstd", asbytes=True),
    "zip": zipped({"folder/rows.csv": CONTENT, "__MACOSX/._rows.csv": b"x"}),
}


class TestPackedFiles:
    @pytest.mark.parametrize("packing", PACKED)
    @pytest.mark.parametrize("name", ["rows.csv", "rows.csv.gz"])
    def test_are_read_by_their_content(self, tmp_path: Path, packing: str, name: str):
        (tmp_path / name).write_bytes(PACKED[packing])
        found = scanned(tmp_path / "work", tmp_path / name, ["n"])
        assert [int(str(value)) for (value,) in found.rows] == found.lines == KEPT
        assert found.refused == [10_000]
        assert found.num_copies == (0 if packing in {"gzip", "members"} else 1)

    @pytest.mark.parametrize("packing", [name for name in PACKED if name != "zip"])
    @pytest.mark.parametrize("damage", ["cut", "flipped"])
    def test_that_are_damaged_are_named(self, tmp_path: Path, packing: str, damage: str):
        content = bytearray(PACKED[packing].rstrip(b"\0"))
        middle = len(content) * 2 // 3
        if damage == "cut":
            del content[middle:]
        else:
            content[middle : middle + 40] = bytes(byte ^ 0xFF for byte in content[middle : middle + 40])
        (tmp_path / "rows.csv").write_bytes(content)
        with pytest.raises(DataError, match=r"/rows\.csv: unreadable: damaged [a-z0-9]+: \w"):
            scanned(tmp_path / "work", tmp_path / "rows.csv", ["n"])

    @pytest.mark.parametrize("rest", [b"and more", b"\0\0and more"])
    def test_with_something_else_behind_them_are_an_error(self, tmp_path: Path, rest: bytes):
        (tmp_path / "rows.csv.gz").write_bytes(PACKED["gzip"] + rest)
        with pytest.raises(DataError, match=r"rows\.csv\.gz: unreadable: damaged gzip: .*incorrect header check"):
            scanned(tmp_path / "work", tmp_path / "rows.csv.gz", ["n"])

    def test_packed_twice_are_an_error(self, tmp_path: Path):
        (tmp_path / "rows.csv.gz").write_bytes(gzip.compress(PACKED["gzip"]))
        with pytest.raises(DataError, match="packed twice, gzip inside gzip"):
            scanned(tmp_path / "work", tmp_path / "rows.csv.gz", ["n"])

    @pytest.mark.parametrize("pack", [gzip.compress, lambda content: zipped({"rows.parquet": content})])
    def test_of_parquet_are_read(self, tmp_path: Path, pack):
        path = tmp_path / "rows.parquet.gz"
        path.write_bytes(pack(parquet_bytes([{"u": "a", "i": n} for n in range(100)])))
        found = scanned(tmp_path / "work", path, ["i"])
        assert found.rows == [(n,) for n in range(100)]
        assert found.lines == list(range(1, 101))

    def test_are_prepared(self, write, tmp_path: Path):
        (tmp_path / "rows.zip").write_bytes(zipped({"rows.csv": b"u,i,n\na,b,1\na,c,2\n"}))
        config = (
            'name = "x"\nformat = "table"\n[interactions]\npath = "rows.zip"\nuser = "u"\nitem = "i"\nposition = "n"\n'
        )
        prepared = prepare(load_data_config(str(write("data.toml", config)), {}), tmp_path / "cache")
        assert [row["item_id"] for row in table_rows(prepared, "interactions")] == ["b", "c"]


class TestZipArchives:
    FILES: Final = {"a/rows.csv": CONTENT, "a/items.csv": b"u,i,n\nx,y,z\n", "readme.txt": b"hello"}

    def test_with_several_files_are_listed(self, tmp_path: Path):
        (tmp_path / "all.zip").write_bytes(zipped(self.FILES))
        message = r'all\.zip: .* holds 3 files, not one: a/rows\.csv, a/items\.csv, readme\.txt; .*member = "NAME"'
        with pytest.raises(DataError, match=message):
            scanned(tmp_path / "work", tmp_path / "all.zip", ["n"])
        found = scanned(tmp_path / "work", tmp_path / "all.zip", ["n"], member="a/items.csv")
        assert found.rows == [("z",)]
        with pytest.raises(DataError, match=r"has no file 'items\.csv'; it holds a/rows\.csv"):
            scanned(tmp_path / "work", tmp_path / "all.zip", ["n"], member="items.csv")

    def test_files_that_systems_add_are_not_counted(self, tmp_path: Path):
        with zipfile.ZipFile(tmp_path / "mac.zip", "w") as archive:
            for name in ("__MACOSX/._rows.csv", ".DS_Store", "export/.DS_Store", "Thumbs.db"):
                archive.writestr(name, "x")
            archive.writestr("export/rows.csv", "n\n7\n")
        assert scanned(tmp_path / "work", tmp_path / "mac.zip", ["n"]).rows == [("7",)]

    def test_a_member_of_another_file_is_an_error(self, tmp_path: Path):
        (tmp_path / "rows.csv").write_bytes(CONTENT)
        with pytest.raises(DataError, match="member = 'a' is for zip archives"):
            scanned(tmp_path / "work", tmp_path / "rows.csv", ["n"], member="a")

    def test_that_are_damaged_or_empty_are_named(self, tmp_path: Path):
        content = bytearray(PACKED["zip"])
        content[200:240] = bytes(40)
        (tmp_path / "rows.zip").write_bytes(content)
        with pytest.raises(DataError, match=r"rows\.zip: unreadable: damaged zip: "):
            scanned(tmp_path / "work", tmp_path / "rows.zip", ["n"])
        (tmp_path / "rows.zip").write_bytes(PACKED["zip"][:-40])
        with pytest.raises(DataError, match=r"rows\.zip: unreadable: damaged zip: "):
            scanned(tmp_path / "work", tmp_path / "rows.zip", ["n"])
        (tmp_path / "rows.zip").write_bytes(zipped({}))
        with pytest.raises(DataError, match=r"rows\.zip: the zip archive is empty"):
            scanned(tmp_path / "work", tmp_path / "rows.zip", ["n"])


def tarred() -> bytes:
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w:gz") as archive:
        info = tarfile.TarInfo("rows.csv")
        info.size = len(CONTENT)
        archive.addfile(info, io.BytesIO(CONTENT))
    return sink.getvalue()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (zipped({"[Content_Types].xml": b"<x/>", "xl/workbook.xml": b"<x/>"}), r"an Excel workbook \(\.xlsx\)"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(600), r"an Excel workbook \(\.xls\)"),
        (b"SQLite format 3\x00" + bytes(100), "an SQLite database; export it as CSV, JSON lines or Parquet"),
        (b"<!DOCTYPE html>\n<html><body>Not found", "an HTML or XML page, perhaps that of a failed download"),
        (b"\xef\xbb\xbf \n<HTML>", "an HTML or XML page"),
        (b"%PDF-1.7\n", "a PDF document"),
        (b"7z\xbc\xaf\x27\x1c" + bytes(100), "a 7-Zip archive"),
        (tarred(), "a tar archive; unpack it"),
        (b"\x93NUMPY" + bytes(100), "a NumPy array"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "a pointer of Git LFS"),
        (parquet_bytes([{"u": 1}]), 'its content is Parquet; set file_format = "parquet"'),
    ],
    ids=["xlsx", "xls", "sqlite", "html", "html-bom", "pdf", "7z", "tar.gz", "npy", "lfs", "parquet"],
)
@pytest.mark.parametrize("name", ["rows.csv", "rows.jsonl"])
def test_files_of_other_kinds_are_named_in_words(tmp_path: Path, content: bytes, message: str, name: str):
    (tmp_path / name).write_bytes(content)
    with pytest.raises((DataError, ConfigError), match=message) as failure:
        scanned(tmp_path / "work", tmp_path / name)
    assert str(failure.value).isprintable()


@pytest.mark.parametrize("packed", [False, True])
def test_a_csv_file_called_parquet_is_an_error(tmp_path: Path, packed: bool):
    (tmp_path / "rows.parquet").write_bytes(PACKED["gzip"] if packed else CONTENT)
    with pytest.raises(DataError, match=r"rows\.parquet: unreadable as Parquet: "):
        scanned(tmp_path / "work", tmp_path / "rows.parquet", ["n"])


@pytest.mark.parametrize("content", [b"", gzip.compress(b"", mtime=0), b"\xef\xbb\xbf", b"\n"])
def test_an_empty_csv_file_is_an_error(tmp_path: Path, content: bytes):
    (tmp_path / "rows.csv").write_bytes(content)
    with pytest.raises(DataError, match=r"rows\.csv: the f(ile is empty|irst line is blank)"):
        scanned(tmp_path / "work", tmp_path / "rows.csv", ["n"])


def test_a_csv_file_of_a_header_alone_has_no_rows(write, tmp_path: Path):
    write("rows.csv", "u,i,n\n")
    config = 'name = "x"\nformat = "table"\n[interactions]\npath = "rows.csv"\nuser = "u"\nitem = "i"\nposition = "n"\n'
    with pytest.raises(DataError, match=r"rows\.csv: the file has no rows"):
        prepare(load_data_config(str(write("data.toml", config)), {}), tmp_path / "cache")
