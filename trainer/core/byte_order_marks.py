"""Byte order marks: the first bytes of a text file that name its encoding, as editors on Windows write them."""

from __future__ import annotations

import codecs
from pathlib import Path
from typing import Final

from tandem.contract.whole_files import read_whole

_MARKS: Final = (
    # The mark of UTF-32 begins with that of UTF-16.
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


def encoding_of_mark(beginning: bytes) -> str | None:
    """The encoding whose byte order mark the bytes begin with."""
    return next((encoding for mark, encoding in _MARKS if beginning.startswith(mark)), None)


def marked_text(path: Path) -> str:
    """The text of a small file: UTF-8, or what its byte order mark says. Raises OSError or UnicodeDecodeError."""
    raw = read_whole(path)
    return raw.decode(encoding_of_mark(raw) or "utf-8")
