"""The content of a source file, unpacked: what a file is, is told by its first bytes and not by its name."""

from __future__ import annotations

import bz2
import lzma
import re
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final

from trainer.core.errors import DataError
from trainer.dataset.parquet import zstandard_stream

CHUNK_BYTES: Final = 1 << 20
_READ_BYTES: Final = 1 << 16

PACKED_SUFFIXES: Final = frozenset({".gz", ".bz2", ".xz", ".zst", ".zip"})
"""Ends of names that do not tell a file's format."""
_PACKINGS: Final = {  # regular expressions of first bytes
    rb"\x1f\x8b": "gzip",
    rb"BZh[1-9](1AY&SY|\x17rE8P\x90)": "bzip2",
    rb"\xfd7zXZ\x00": "xz",
    rb"\x28\xb5\x2f\xfd": "zstandard",
    rb"PK(\x03\x04|\x05\x06)": "zip",
}
_PARQUET: Final = b"PAR1"
_UNREADABLE: Final = {
    b"SQLite format 3\x00": "an SQLite database",
    b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1": "an Excel workbook (.xls)",
    b"%PDF-": "a PDF document",
    b"7z\xbc\xaf\x27\x1c": "a 7-Zip archive",
    b"Rar!": "a RAR archive",
    b"\x04\x22\x4d\x18": "packed with LZ4",
    b"\x1f\x9d": "packed with compress (.Z)",
    b"Obj\x01": "an Avro file",
    b"ARROW1": "an Arrow (Feather) file",
    b"\x89HDF": "an HDF5 file",
    b"\x93NUMPY": "a NumPy array",
    b"\x80\x04\x95": "a Python pickle",
    b"version https://git-lfs": "a pointer of Git LFS, not the file itself (`git lfs pull` fetches it)",
}
_MARKUP: Final = (b"<!doctype", b"<html", b"<?xml")
_EXPORT: Final = "export it as CSV, JSON lines or Parquet"


@dataclass(frozen=True)
class Packed:
    """A source file, and how its content is packed."""

    path: Path
    packing: str
    """"": not packed; or one of gzip, bzip2, xz, zstandard, zip."""
    member: str = ""
    """File inside a zip archive."""

    @property
    def name(self) -> str:
        """The name of the content: it tells the format."""
        return self.member or self.path.name

    def chunks(self) -> Iterator[bytes]:
        """The content. Raises DataError, which names the file, where it is unreadable or damaged."""
        try:
            yield from _READERS[self.packing](self)
        except _DAMAGE as error:
            what = f"damaged {self.packing}: " if self.packing else ""
            reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
            raise DataError(f"{self.path}: unreadable: {what}{reason}") from error

    def has_padding(self) -> bool:
        """Whether zeros follow the content of a gzip file, which tapes and some downloads add."""
        return self.packing == "gzip" and any(_gunzipped(self.path, only_padding=True))

    def is_parquet(self) -> bool:
        """Whether the content is Parquet."""
        return beginning(self.chunks(), len(_PARQUET)) == _PARQUET


def unpack(path: Path, member: str = "") -> Packed:
    """Finds out how a file is packed; `member` chooses a file of a zip archive.

    Raises DataError when the file is unreadable, or is of a kind that has no lines, which the message names.
    """
    first = beginning(Packed(path, "").chunks(), 512)
    packing = _packing(first)
    if member and packing != "zip":
        raise DataError(f"{path}: member = {member!r} is for zip archives, and this file is none")
    packed = Packed(path, packing, _member(path, member) if packing == "zip" else "")
    if packing:
        first = beginning(packed.chunks(), 512)
        if inner := _packing(first):
            raise DataError(f"{path}: packed twice, {inner} inside {packing}; unpack it once")
    if first[257:262] == b"ustar":
        raise DataError(f"{path}: a tar archive; unpack it, and name the files inside")
    for magic, what in _UNREADABLE.items():
        if first.startswith(magic):
            raise DataError(f"{path}: {what}; {_EXPORT}")
    if first.lstrip(b"\xef\xbb\xbf \t\r\n")[:9].lower().startswith(_MARKUP):
        raise DataError(f"{path}: an HTML or XML page, perhaps that of a failed download; {_EXPORT}")
    return packed


def beginning(chunks: Iterator[bytes], num_bytes: int) -> bytes:
    """The first bytes of a stream; fewer if it is shorter."""
    found = b""
    for chunk in chunks:
        found += chunk
        if len(found) >= num_bytes:
            break
    return found[:num_bytes]


def _packing(first: bytes) -> str:
    return next((name for magic, name in _PACKINGS.items() if re.match(magic, first, re.DOTALL)), "")


def _member(path: Path, wanted: str) -> str:
    try:
        with zipfile.ZipFile(path) as archive:
            names = [
                info.filename for info in archive.infolist() if not info.is_dir() and not _is_hidden(info.filename)
            ]
    except _DAMAGE as error:
        raise DataError(f"{path}: unreadable: damaged zip: {error}") from error
    listed = ", ".join(names[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "")
    if "[Content_Types].xml" in names:
        raise DataError(f"{path}: an Excel workbook (.xlsx) or another Office document; {_EXPORT}")
    if wanted:
        if wanted not in names:
            raise DataError(f"{path}: the zip archive has no file {wanted!r}; it holds {listed or 'nothing'}")
        return wanted
    if len(names) != 1:
        raise DataError(
            f'{path}: the zip archive holds {len(names)} files, not one: {listed}; choose one with member = "NAME"'
            if names
            else f"{path}: the zip archive is empty"
        )
    return names[0]


def _is_hidden(name: str) -> bool:
    """Whether a file inside of an archive is one that macOS or Windows adds by itself."""
    last = name.rsplit("/", 1)[-1]
    return name.startswith("__MACOSX/") or last.startswith(".") or last in {"Thumbs.db", "desktop.ini"}


def _read_on(source: IO[bytes], num_bytes: int = CHUNK_BYTES) -> Iterator[bytes]:
    while chunk := source.read(num_bytes):
        yield chunk


def _plain(packed: Packed) -> Iterator[bytes]:
    with packed.path.open("rb") as source:
        yield from _read_on(source)


def _gunzip(packed: Packed) -> Iterator[bytes]:
    yield from _gunzipped(packed.path)


def _gunzipped(path: Path, *, only_padding: bool = False) -> Iterator[bytes]:
    """The content of all members, one after the other; or the zeros after them."""
    decompressor = zlib.decompressobj(31)
    with path.open("rb") as source:
        for read in _read_on(source, _READ_BYTES):
            block = read
            while block:
                if decompressor.eof:
                    padding = block[: len(block) - len(block.lstrip(b"\0"))]
                    if padding and only_padding:
                        yield padding
                    block = block[len(padding) :]
                    if not block:
                        break
                    decompressor = zlib.decompressobj(31)
                chunk = decompressor.decompress(block, CHUNK_BYTES)
                block = decompressor.unconsumed_tail or decompressor.unused_data
                if chunk and not only_padding:
                    yield chunk
    rest = decompressor.flush()
    if not decompressor.eof:
        raise EOFError("the file ends in the middle")
    if rest and not only_padding:
        yield rest


def _bunzip2(packed: Packed) -> Iterator[bytes]:
    with bz2.open(packed.path) as source:
        yield from _read_on(source)


def _unxz(packed: Packed) -> Iterator[bytes]:
    with lzma.open(packed.path) as source:
        yield from _read_on(source)


def _unzstd(packed: Packed) -> Iterator[bytes]:
    with zstandard_stream(packed.path) as source:
        yield from _read_on(source)


def _unzip(packed: Packed) -> Iterator[bytes]:
    with zipfile.ZipFile(packed.path) as archive, archive.open(packed.member) as source:
        yield from _read_on(source)


_READERS: Final[dict[str, Callable[[Packed], Iterator[bytes]]]] = {
    "": _plain,
    "gzip": _gunzip,
    "bzip2": _bunzip2,
    "xz": _unxz,
    "zstandard": _unzstd,
    "zip": _unzip,
}
# RuntimeError: a zip file with a password; ValueError: of the Zstandard reader.
_DAMAGE: Final = (
    OSError,
    EOFError,
    zlib.error,
    lzma.LZMAError,
    zipfile.BadZipFile,
    NotImplementedError,
    RuntimeError,
    ValueError,
)
