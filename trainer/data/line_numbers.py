"""Line numbers of rows: DuckDB counts records, skips blank lines, and gives byte positions of rejected lines.

Users look for a line in their editor, so all of these become exact line numbers, even with line breaks in quotes.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain

from trainer.data.plain_text import PlainText
from trainer.data.unpacking import Packed


def raw_lines(packed: Packed) -> Iterator[bytes]:
    """The lines of an unpacked file, as they are, without their line feeds."""
    rest = b""
    for chunk in packed.chunks():
        *lines, rest = (rest + chunk).split(b"\n")
        yield from lines
    if rest:
        yield rest


def blank_lines(text: PlainText) -> list[int]:
    """Numbers, from 1, of the blank lines, which DuckDB's CSV parser skips silently.

    Read as bytes, because a damaged file may not decode in any encoding.
    """
    lines = raw_lines(Packed(text.path, text.packing))
    return [number for number, line in enumerate(lines, start=1) if line in {b"", b"\r"}]


def lines_at(text: PlainText, positions: Sequence[int]) -> list[int]:
    """Line numbers, from 1, of ascending byte positions."""
    lines: list[int] = []
    line, chunk_start = 1, 0
    # The position after the last byte of the file counts too.
    for chunk in chain(Packed(text.path, text.packing).chunks(), [b""]):
        counted_to = 0
        while len(lines) < len(positions) and positions[len(lines)] <= chunk_start + len(chunk):
            offset = positions[len(lines)] - chunk_start
            line += chunk.count(b"\n", counted_to, offset)
            counted_to = offset
            lines.append(line)
        if len(lines) == len(positions):
            break
        line += chunk.count(b"\n", counted_to)
        chunk_start += len(chunk)
    return lines


def lines_of_ranks(ranks: Iterable[int], skipped: Iterable[int]) -> list[int]:
    """Line numbers of the n-th lines, from 1, counted without the `skipped` lines."""
    # Before the i-th skipped line s there are s - 1 - i lines that count, so the n-th of them is after s if s - i <= n.
    thresholds = [line - index for index, line in enumerate(sorted(set(skipped)))]
    return [rank + bisect.bisect_right(thresholds, rank) for rank in ranks]
