"""Finds the CSV records that a quote which is never closed makes out of thousands of lines.

To a CSV parser such a record is well-formed: the value ends at the next quote, wherever that is, and the lines up to it
are lost without a trace. A record of several lines is refused here if the quote at its end is no end of a value, if it
is larger than a value can sensibly be, or if the lines inside have as many fields as the file has columns.
"""

from __future__ import annotations

import bisect
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

import numpy as np
import numpy.typing as npt

_MAX_LINES: Final = 1_000
_MAX_BYTES: Final = 1 << 20
_MIN_DELIMITERS_INSIDE: Final = 12
_MIN_LINES_INSIDE: Final = 3
_SHARE_OF_LINES_INSIDE: Final = 0.9
_SHARE_WITH_NUMBERS_ALIKE: Final = 0.5
_MIN_DIGITS_ALIKE: Final = 6
_NUMBER: Final = re.compile(rb"-?[0-9]+(\.[0-9]+)?")
_LINE_FEED: Final = 10
_EXCERPT_BYTES: Final = 200


@dataclass(frozen=True)
class Dialect:
    """How a CSV file is written; all bytes are UTF-8."""

    delimiter: bytes
    quote: bytes
    """One character; not empty."""
    escape: bytes
    """The character before a quote inside of quotes; equal to `quote` if quotes are doubled."""
    num_columns: int


@dataclass(frozen=True)
class Span:
    """Lines that are refused together."""

    first: int
    """Number of the line, from 1."""
    last: int
    why: str
    excerpt: bytes
    """The beginning of the first line."""


class RecordsInQuotes:
    """Follows the quotes of a file from block to block. Line ends are single line feeds."""

    def __init__(self, dialect: Dialect) -> None:
        self._dialect = dialect
        self._opening = re.compile(b" *" + re.escape(dialect.quote))
        self._reopening = re.compile(b" +" + re.escape(dialect.quote))
        self._after_quote = re.compile(b" *(?:" + re.escape(dialect.delimiter) + b"|$)")
        quote, escape = re.escape(dialect.quote), re.escape(dialect.escape)
        if dialect.escape == dialect.quote:
            plain, escaped = b"[^" + quote + b"]*+", quote + quote
        else:
            plain, escaped = b"[^" + quote + escape + b"]*+", escape + b"(?:.|$)"
        inside = plain + b"(?:" + escaped + plain + b")*+"
        self._closing = re.compile(inside + quote, re.DOTALL)
        self.refused: list[Span] = []
        self.has_records_of_several_lines = False
        self._is_open = False
        self._first_line = 0
        self._excerpt = b""
        self._num_bytes = 0
        self._num_inside = 0
        self._num_like_records = 0
        self._num_with_numbers_alike = 0
        self._ends_like_record = False
        self._are_numbers: list[bool] = []

    def feed(self, block: bytes, first_line: int) -> None:
        """Follows whole lines; `first_line` is the number of the first of them."""
        if not self._is_open and self._dialect.quote not in block:
            return
        lines = _Lines(block)
        unclear = self._unclear(lines).tolist()
        if not self._is_open and not unclear:
            return
        quotes = lines.of_bytes(self._dialect.quote).tolist()
        index = 0
        while index < lines.num:
            if not self._is_open:
                position = bisect.bisect_left(unclear, index)
                index = unclear[position] if position < len(unclear) else lines.num
                if index < lines.num:
                    self._begin(lines.line(index), first_line + index)
            else:
                position = bisect.bisect_left(quotes, index)
                with_quote = quotes[position] if position < len(quotes) else lines.num
                for inside in range(index, with_quote):
                    self._pass_inside(lines.line(inside))
                index = with_quote
                if index < lines.num:
                    self._go_on(lines.line(index), first_line + index)
            index += 1

    def end(self, last_line: int) -> None:
        """Ends the file, whose last line has this number."""
        if self._is_open:
            self._refuse(last_line, "a quote opens a value that never ends")

    def _unclear(self, lines: _Lines) -> npt.NDArray[np.int64]:
        """Indices of the lines whose quotes are not, at a glance, pairs around whole values: an opening quote follows a
        delimiter, a closing one precedes one. Most lines of most files are left out."""
        data, dialect = lines.data, self._dialect
        at = np.flatnonzero(data == dialect.quote[0]) if len(dialect.quote) == 1 else np.empty(0, np.int64)
        if len(dialect.quote) != 1:
            return np.unique(lines.of_bytes(dialect.quote))
        of_line = lines.index_of(at)
        counts = np.bincount(of_line, minlength=lines.num)
        is_closing = (np.arange(len(at)) - (np.cumsum(counts) - counts)[of_line]) % 2 == 1
        padded = np.concatenate(([_LINE_FEED], data, [_LINE_FEED]))
        neighbour = np.where(is_closing, padded[at + 2], padded[at])
        edge = np.where(is_closing, dialect.delimiter[0], dialect.delimiter[-1])
        is_clear = (neighbour == edge) | (neighbour == _LINE_FEED) | (neighbour == dialect.quote[0])
        unclear = counts % 2 == 1
        unclear[of_line[~is_clear]] = True
        if dialect.escape != dialect.quote:
            unclear[lines.of_bytes(dialect.escape)] = True
        return np.flatnonzero(unclear)

    def _begin(self, line: bytes, number: int) -> None:
        """Reads the line on which a record begins."""
        self._first_line, self._excerpt = number, line[:_EXCERPT_BYTES]
        self._num_bytes = self._num_inside = self._num_like_records = self._num_with_numbers_alike = 0
        self._fields(line, 0, number)

    def _go_on(self, line: bytes, number: int) -> None:
        """Reads a line that begins inside of quotes."""
        closing = self._closing.match(line)
        if closing is None:
            self._pass_inside(line)
        else:
            # The end of the value may be the end of a row as well.
            self._ends_like_record = self._has_numbers_alike(line[: closing.end() - len(self._dialect.quote)])
            self._num_bytes += len(line) + 1
            self._fields(line, closing.end(), number, after_quote=True)

    def _fields(self, line: bytes, position: int, number: int, *, after_quote: bool = False) -> None:
        """Reads the rest of a line field by field, and judges the record if it ends with the line."""
        while True:
            # DuckDB takes a quote for an opening one also after a closing one and a blank.
            if opening := (self._reopening if after_quote else self._opening).match(line, position):
                closing = self._closing.match(line, opening.end())
                if closing is None:
                    if not self._is_open:
                        self._are_numbers = [_is_number(field) for field in self._split(line[:position])[:-1]]
                    self._is_open = True
                    return
                position, after_quote = closing.end(), True
            elif after_quote:
                separator = self._after_quote.match(line, position)
                if separator is None:  # the parser goes on with the next line
                    self._judge(number, is_broken=True)
                    return
                position, after_quote = separator.end(), False
                if not separator.group().endswith(self._dialect.delimiter):
                    break
            else:
                found = line.find(self._dialect.delimiter, position)
                if found < 0:
                    break
                position = found + len(self._dialect.delimiter)
        self._judge(number, is_broken=False)

    def _pass_inside(self, line: bytes) -> None:
        """Counts a line that is inside of quotes as a whole."""
        self._num_bytes += len(line) + 1
        self._num_inside += line != b""
        if line.count(self._dialect.delimiter) == self._dialect.num_columns - 1:
            self._num_like_records += 1
            self._num_with_numbers_alike += self._has_numbers_alike(line)

    def _has_numbers_alike(self, line: bytes) -> bool:
        """Whether a line has as many fields as a row, and long numbers in those fields in which the first line has."""
        fields = self._split(line)
        are_numbers = [_is_number(field) for field in fields[: len(self._are_numbers)]]
        if len(fields) != self._dialect.num_columns or are_numbers != self._are_numbers:
            return False
        numbers = (field for field, is_number in zip(fields, self._are_numbers, strict=False) if is_number)
        return sum(map(len, numbers)) >= _MIN_DIGITS_ALIKE

    def _split(self, line: bytes) -> list[bytes]:
        return line.split(self._dialect.delimiter)

    def _judge(self, last: int, *, is_broken: bool) -> None:
        self._is_open = False
        if last == self._first_line:
            return  # whatever is wrong with a single line, the parser refuses that line alone
        num_lines = last - self._first_line + 1
        if is_broken:
            self._refuse(last, "a quote opens a value that ends at a quote in the middle of another value")
        elif num_lines > _MAX_LINES or self._num_bytes > _MAX_BYTES or self._holds_records():
            self._refuse(last, f"a quote opens a value of {num_lines:,} lines")
        else:
            self.has_records_of_several_lines = True

    def _holds_records(self) -> bool:
        if self._num_inside == 0:
            return self._ends_like_record
        delimiters = self._dialect.num_columns - 1
        if self._num_with_numbers_alike >= _SHARE_WITH_NUMBERS_ALIKE * self._num_inside:
            return True
        return (
            delimiters > 0
            and self._num_inside >= max(_MIN_LINES_INSIDE, -(-_MIN_DELIMITERS_INSIDE // delimiters))
            and self._num_like_records >= _SHARE_OF_LINES_INSIDE * self._num_inside
        )

    def _refuse(self, last: int, why: str) -> None:
        self._is_open = False
        self.refused.append(Span(self._first_line, last, why, self._excerpt))


def _is_number(field: bytes) -> bool:
    return _NUMBER.fullmatch(field.strip(b' "')) is not None


class _Lines:
    """The lines of a block."""

    def __init__(self, block: bytes) -> None:
        self._block = block
        self.data: npt.NDArray[np.uint8] = np.frombuffer(block, np.uint8)
        self._ends: Any = np.flatnonzero(self.data == _LINE_FEED)
        if not block.endswith(b"\n"):
            self._ends = np.append(self._ends, len(block))
        self.num = len(self._ends)

    @cached_property
    def _positions(self) -> list[int]:
        return [-1, *self._ends.tolist()]

    def line(self, index: int) -> bytes:
        """The line without its line feed."""
        return self._block[self._positions[index] + 1 : self._positions[index + 1]]

    def index_of(self, positions: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Indices of the lines of byte positions."""
        return np.searchsorted(self._ends, positions)

    def of_bytes(self, wanted: bytes) -> npt.NDArray[np.int64]:
        """Indices, ascending, of the lines of every occurrence of a byte sequence."""
        if len(wanted) == 1:
            return self.index_of(np.flatnonzero(self.data == wanted[0]))
        return self.index_of(np.array(list(_occurrences(self._block, wanted)), np.int64))


def _occurrences(block: bytes, wanted: bytes) -> Iterator[int]:
    position = block.find(wanted)
    while position >= 0:
        yield position
        position = block.find(wanted, position + 1)
