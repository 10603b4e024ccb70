"""Character encodings of source files: which are known, which one a byte order mark names, which one would fit."""

from __future__ import annotations

import codecs
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Final

UTF_8: Final = "utf-8"
INVALID: Final = b"\xff"
"""Stands in decoded text, which is UTF-8 otherwise, for bytes that are no character of the encoding."""

_LATIN_1: Final = "iso8859-1"
_ERRORS: Final = "trainer.invalid"
_ERRORS_OF_LATIN_1: Final = "trainer.latin_1"
_NOT_OF_FILES: Final = frozenset({"idna", "punycode", "undefined", "raw-unicode-escape", "unicode-escape"})
_MIN_CHARACTERS: Final = 3
"""Fewer may be read in many ways: "öß" of Latin-1 is a Chinese character too."""
_NOT_ASCII: Final = re.compile(rb"[\x80-\xff]+")


def _invalid(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeDecodeError)
    return "\udcff", error.end  # becomes INVALID, by the error handler "surrogateescape"


def _as_latin_1(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeDecodeError)
    return error.object[error.start : error.end].decode("latin-1"), error.end


codecs.register_error(_ERRORS, _invalid)
codecs.register_error(_ERRORS_OF_LATIN_1, _as_latin_1)


def known_encoding(name: str) -> str:
    """Python's name of an encoding of text files, for example "cp1252" for "Windows-1252". Raises ValueError."""
    try:
        codec = codecs.lookup(name.strip())
    except (LookupError, ValueError):
        codec = None
    if codec is None or codec.name in _NOT_OF_FILES or not codec._is_text_encoding:
        raise ValueError(
            "no encoding of that name; for example utf-8, utf-16, windows-1252, iso-8859-15, windows-1250, "
            "windows-1251, gb18030, big5, shift_jis, euc-kr"
        )
    return codec.name


def unmarked_utf_16(beginning: bytes) -> str | None:
    """The variant of UTF-16 that bytes without a byte order mark seem to have: every other byte of Latin text is 0."""
    half = len(beginning) // 2
    for offset, encoding in ((1, "utf-16-le"), (0, "utf-16-be")):
        if half >= 8 and beginning[offset::2].count(0) > half * 0.7 and beginning[1 - offset :: 2].count(0) == 0:
            return encoding
    return None


def utf_8_of(chunks: Iterable[bytes], encoding: str) -> Iterator[bytes]:
    """The text as UTF-8, without a byte order mark, and with INVALID for each sequence of bytes that is no character.

    Latin-1 is read as Windows-1252, whose quotation marks, dashes and euro sign are control characters in Latin-1.
    """
    if encoding == UTF_8:
        yield from chunks
        return
    codec, errors = ("cp1252", _ERRORS_OF_LATIN_1) if encoding == _LATIN_1 else (encoding, _ERRORS)
    decoder = codecs.getincrementaldecoder(codec)(errors)
    for chunk in chunks:
        yield decoder.decode(chunk).encode(UTF_8, "surrogateescape")
    yield decoder.decode(b"", final=True).encode(UTF_8, "surrogateescape")


def proposed_encoding(lines: Iterable[bytes]) -> str | None:
    """The encoding that lines which are no UTF-8 probably have; None without such a line."""
    sample = b"\n".join(line for line in lines if not _is_utf_8(line))
    runs = [len(run) for run in _NOT_ASCII.findall(sample)]
    if not runs:
        return None
    is_long = sum(runs) / len(runs) >= 2  # in Latin scripts, most characters beyond ASCII stand alone
    for encoding, fits in _SCRIPTS:
        try:
            characters = [character for character in sample.decode(encoding) if ord(character) > 127]
        except UnicodeDecodeError:
            continue
        if is_long and len(characters) >= _MIN_CHARACTERS and fits(characters):
            return encoding
    return "windows-1252"


def _is_utf_8(line: bytes) -> bool:
    try:
        line.decode(UTF_8)
    except UnicodeDecodeError:
        return False
    return True


def _share(characters: list[str], first: int, last: int) -> float:
    return sum(first <= ord(character) <= last for character in characters) / len(characters)


_SCRIPTS: Final[tuple[tuple[str, Callable[[list[str]], bool]], ...]] = (
    ("shift_jis", lambda text: _share(text, 0x3000, 0x30FF) > 0.2 and _share(text, 0xFF61, 0xFF9F) == 0),
    ("euc-kr", lambda text: _share(text, 0xAC00, 0xD7A3) > 0.9),
    ("gb18030", lambda text: _share(text, 0x3000, 0x9FFF) > 0.9),
    ("windows-1251", lambda text: _share(text, 0x0400, 0x04FF) > 0.9),
)
"""Encodings of scripts other than Latin, with a test of the text decoded with them."""
