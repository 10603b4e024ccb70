"""Text files as DuckDB can read them: UTF-8, one kind of line end, no line that would mislead its parser.

A file is read through once first. Most files need nothing else, and DuckDB reads them where they are. Others are copied
into the work folder, where each line keeps its number: a line that cannot be read is counted here, and blank there.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from trainer.core.byte_order_marks import encoding_of_mark
from trainer.core.errors import DataError
from trainer.data.encodings import INVALID, UTF_8, unmarked_utf_16, utf_8_of
from trainer.data.json_documents import is_document, one_per_line
from trainer.data.json_envelopes import EXAMINED_BYTES, envelope_of, pages_of
from trainer.data.quotes import Dialect, RecordsInQuotes
from trainer.data.unpacking import Packed, beginning

MAX_LINE_BYTES: Final = 16 << 20
MAX_REFUSED_KEPT: Final = 20
_BOM: Final = b"\xef\xbb\xbf"
_EXCERPT_BYTES: Final = 200
_READ_IN_PLACE: Final = frozenset({"", "gzip"})
_DOS_END: Final = b"\x1a"  # Ctrl-Z, which CP/M and DOS programs write after the text
_NOT_A_CHARACTER: Final = "bytes that are no character of the encoding"


@dataclass(frozen=True)
class Reject:
    """Lines that cannot be read, as one entry of a report."""

    line: int
    """Number of the first line, from 1."""
    text: str
    num_lines: int = 1
    is_wrong_encoding: bool = False


@dataclass
class RefusedLines:
    """Lines that are blank in the copy."""

    rejects: list[Reject] = field(default_factory=list)
    """The first `MAX_REFUSED_KEPT` of each kind, in order."""
    intervals: list[tuple[int, int]] = field(default_factory=list)
    """First and last lines, ascending, apart from each other."""

    @property
    def num_lines(self) -> int:
        """Number of lines."""
        return sum(last - first + 1 for first, last in self.intervals)


@dataclass(frozen=True, kw_only=True)
class PlainText:
    """A text file that DuckDB can read."""

    path: Path
    packing: str
    """"" or "gzip"."""
    encoding: str
    """That of the source."""
    refused: RefusedLines
    has_records_of_several_lines: bool = False
    ends_in_a_line: bool = False
    """Whether the last line has no end."""
    document_lines: array[int] | None = None
    """The line of the source on which each line of `path` begins, where that differs."""


class Text:
    """A source file as UTF-8 text with line feeds."""

    def __init__(self, packed: Packed, encoding: str) -> None:
        """Finds the encoding: a byte order mark decides, or else `encoding`.

        Raises DataError when the file is unreadable, or is UTF-16 without a mark but not called so.
        """
        self.packed = packed
        first = beginning(packed.chunks(), 4096)
        mark = encoding_of_mark(first)
        self._has_bom = mark == "utf-8-sig"
        self.encoding = UTF_8 if self._has_bom else mark or encoding
        if self.encoding == UTF_8 and (proposed := unmarked_utf_16(first)):
            raise DataError(
                f'{packed.path}: not UTF-8, but UTF-16 without a byte order mark; set encoding = "{proposed}"'
            )

    def lines(self) -> Iterator[str]:
        """The lines, without their ends, to examine the beginning of the file."""
        for block in _blocks(self.chunks(_Ends()), lambda _line, _text: None):
            for line in block.removesuffix(b"\n").split(b"\n"):
                yield line.decode(UTF_8, "replace")

    def chunks(self, ends: _Ends) -> Iterator[bytes]:
        """The text as UTF-8; `ends` learns which line ends the source has."""
        source = self.packed.chunks()
        return ends.as_line_feeds(utf_8_of(_without(len(_BOM) if self._has_bom else 0, source), self.encoding))

    def plain_json(self, copy: Path, id_keys: Sequence[str]) -> PlainText:
        """Reads a file of JSON through, as `plain` does; a document is copied with an object of its rows on each line.

        `id_keys` are the keys of a row's ids. Raises DataError when the file is unreadable, damaged, or one object in
        which the rows are not found.
        """
        examined = beginning(self.chunks(_Ends()), EXAMINED_BYTES)
        try:
            envelope = envelope_of(
                examined.decode(UTF_8, "surrogateescape"), id_keys, is_whole=len(examined) < EXAMINED_BYTES
            )
        except ValueError as error:
            raise DataError(f"{self.packed.path}: {error}") from error
        pages = None if envelope else pages_of(examined.decode(UTF_8, "surrogateescape"), id_keys)
        # The last line may be cut: a whole array may be one line.
        if not envelope and not pages and not is_document(examined.decode(UTF_8, "replace").split("\n")):
            return self.plain(copy, None)
        lines = array("I")
        with copy.open("wb") as sink:
            sink.writelines(one_per_line(self.chunks(_Ends()), self.packed.path, lines, envelope, pages))
        return PlainText(path=copy, packing="", encoding=self.encoding, refused=RefusedLines(), document_lines=lines)

    def plain(self, copy: Path, dialect: Dialect | None) -> PlainText:
        """Reads the file through, and writes `copy` if it is needed; without `dialect`, quotes mean nothing.

        Raises DataError when the file is unreadable or damaged.
        """
        ends, inspection = _Ends(), _Inspection(dialect, is_decoded=self.encoding != UTF_8)
        refused = inspection.run(self.chunks(ends))
        has_records = inspection.records is not None and inspection.records.has_records_of_several_lines
        if (
            self.encoding == UTF_8
            and ends.are_alike
            and not refused.intervals
            and not inspection.has_marks
            and self.packed.packing in _READ_IN_PLACE
            and not self.packed.has_padding()
        ):
            path, packing = self.packed.path, self.packed.packing
        else:
            path, packing = copy, ""
            with copy.open("wb") as sink:
                blocks = map(_without_marks, _blocks(self.chunks(_Ends()), lambda _line, _text: None))
                sink.writelines(_blanked(blocks, refused.intervals))
        return PlainText(
            path=path,
            packing=packing,
            encoding=self.encoding,
            refused=refused,
            has_records_of_several_lines=has_records,
            ends_in_a_line=inspection.ends_in_a_line,
        )


class _Ends:
    """Counts of line ends."""

    def __init__(self) -> None:
        self._feeds = self._returns = self._pairs = 0
        self._has_dos_end = False

    @property
    def are_alike(self) -> bool:
        """Whether all lines end in a line feed, or all in a carriage return and a line feed."""
        return not self._has_dos_end and (self._returns == 0 or self._feeds == self._returns == self._pairs)

    def as_line_feeds(self, chunks: Iterable[bytes]) -> Iterator[bytes]:
        """Replaces each line end by a line feed; a file that was converted twice has two returns before it."""
        held = b""
        for chunk in chunks:
            joined = held + chunk
            body = joined.rstrip(b"\r" + _DOS_END)
            held = joined[len(body) :]
            yield self._converted(body)
        text = held.rstrip(_DOS_END)
        self._has_dos_end = text != held
        yield self._converted(text)

    def _converted(self, text: bytes) -> bytes:
        self._feeds += text.count(b"\n")
        if b"\r" not in text:
            return text
        self._returns += text.count(b"\r")
        self._pairs += text.count(b"\r\n")
        return text.replace(b"\r\r\n", b"\n").replace(b"\r\n", b"\n").replace(b"\r", b"\n")


class _Inspection:
    """Looks for lines that cannot be read."""

    def __init__(self, dialect: Dialect | None, *, is_decoded: bool) -> None:
        self.records = RecordsInQuotes(dialect) if dialect else None
        self.has_marks = False
        """Whether a line inside of the text begins with a byte order mark."""
        self.ends_in_a_line = False
        # Undecodable bytes of UTF-8 are left to DuckDB, which refuses the line if it needs the column.
        self._marks = ((b"\0", "NUL bytes", False), *((((INVALID, _NOT_A_CHARACTER, True)),) if is_decoded else ()))
        self._numbers = array("Q")
        self._rejects: list[Reject] = []

    def run(self, chunks: Iterable[bytes]) -> RefusedLines:
        """Reads the text through."""
        number, last = 1, 0
        for source in _blocks(chunks, self._too_long):
            block = _without_marks(source)
            self.has_marks |= block is not source
            for mark, why, is_wrong_encoding in self._marks:
                if mark in block:
                    self._find(block, number, mark, why, is_wrong_encoding=is_wrong_encoding)
            if self.records is not None:
                self.records.feed(block, number)
            number += block.count(b"\n")
            self.ends_in_a_line = not block.endswith(b"\n")
            last = number if self.ends_in_a_line else number - 1
        spans = []
        if self.records is not None:
            self.records.end(last)
            spans = self.records.refused
        self._rejects += [
            Reject(span.first, f"{span.why}: {_shown(span.excerpt)}", span.last - span.first + 1)
            for span in spans[:MAX_REFUSED_KEPT]
        ]
        found = [(line, line) for line in self._numbers] + [(span.first, span.last) for span in spans]
        return RefusedLines(sorted(self._rejects, key=lambda reject: reject.line), _merged(sorted(found)))

    def _find(self, block: bytes, first_line: int, mark: bytes, why: str, *, is_wrong_encoding: bool) -> None:
        for number, line in enumerate(block.split(b"\n"), start=first_line):
            if mark in line:
                self._add(number, f"{why}: {_shown(line)}", is_wrong_encoding=is_wrong_encoding)

    def _too_long(self, number: int, text: bytes) -> None:
        self._add(number, f"a line of more than {MAX_LINE_BYTES >> 20} MiB: {_shown(text)}", is_wrong_encoding=False)

    def _add(self, number: int, text: str, *, is_wrong_encoding: bool) -> None:
        self._numbers.append(number)
        if len(self._numbers) <= MAX_REFUSED_KEPT:
            self._rejects.append(Reject(number, text, is_wrong_encoding=is_wrong_encoding))


def _without(num_bytes: int, chunks: Iterator[bytes]) -> Iterator[bytes]:
    for chunk in chunks:
        skipped = min(num_bytes, len(chunk))
        num_bytes -= skipped
        yield chunk[skipped:]


def _blocks(chunks: Iterable[bytes], too_long: Callable[[int, bytes], None]) -> Iterator[bytes]:
    """The text in blocks of whole lines; the last may lack its line feed. `too_long` is called with the number and the
    beginning of each line of more than `MAX_LINE_BYTES`, which is blank in its block."""
    rest: list[bytes] = []
    num_rest, number, is_skipping = 0, 1, False
    for chunk in chunks:
        end = chunk.rfind(b"\n") + 1
        if end:
            begun = b"" if is_skipping else b"".join(rest)
            block = begun + (chunk[chunk.find(b"\n") : end] if is_skipping else chunk[:end])
            yield block
            number += block.count(b"\n")
            rest, num_rest, is_skipping = [], 0, False
        if not is_skipping:
            rest.append(chunk[end:])
            num_rest += len(rest[-1])
        if num_rest > MAX_LINE_BYTES:
            too_long(number, b"".join(rest)[:_EXCERPT_BYTES])
            rest, num_rest, is_skipping = [], 0, True
    if last := b"".join(rest):
        yield last


def _without_marks(block: bytes) -> bytes:
    """The block without byte order marks at the beginning of its lines, which joined files have."""
    if _BOM not in block:
        return block
    return b"\n".join(line.removeprefix(_BOM) for line in block.split(b"\n"))


def _blanked(blocks: Iterable[bytes], intervals: list[tuple[int, int]]) -> Iterator[bytes]:
    """The blocks, with the lines of the intervals blank."""
    number, index = 1, 0
    for block in blocks:
        num_lines = block.count(b"\n")
        if index < len(intervals) and intervals[index][0] <= number + num_lines:
            lines = block.split(b"\n")
            for offset in range(len(lines)):
                while index < len(intervals) and intervals[index][1] < number + offset:
                    index += 1
                if index < len(intervals) and intervals[index][0] <= number + offset:
                    lines[offset] = b""
            yield b"\n".join(lines)
        else:
            yield block
        number += num_lines


def _merged(intervals: list[tuple[int, int]]) -> list[tuple[int, int]]:
    merged: list[tuple[int, int]] = []
    for first, last in intervals:
        if merged and first <= merged[-1][1] + 1:
            merged[-1] = (merged[-1][0], max(merged[-1][1], last))
        else:
            merged.append((first, last))
    return merged


def _shown(line: bytes) -> str:
    return line[:_EXCERPT_BYTES].replace(b"\0", b"").decode(UTF_8, "replace")
