"""On which line of the file a row stands: DuckDB numbers records, skips blank lines, and places rejects by bytes.

People look for a line with their editor, so all of it becomes lines, exactly, even with line breaks in quotes.
"""

from __future__ import annotations

import bisect
import gzip
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Final

from trainer.core.errors import DataError

_CHUNK_BYTES: Final = 1 << 20


def is_gzip(path: Path) -> bool:
    """Whether a file is gzip, told from its content: names lie. Raises DataError when it is unreadable."""
    try:
        with path.open("rb") as source:
            return source.read(2) == b"\x1f\x8b"
    except OSError as error:
        raise DataError(f"{path}: unreadable: {error.strerror}") from error


def blank_lines(path: Path) -> list[int]:
    """Lines, from 1, of the unzipped file that hold nothing: DuckDB's CSV parser skips them without a word.

    Read as bytes, because DuckDB can read every line of a damaged file in no encoding.
    """
    opener: Any = gzip.open if is_gzip(path) else open
    with opener(path, "rb") as source:
        return [number for number, line in enumerate(source, start=1) if not line.strip(b"\r\n")]


def lines_at(path: Path, encoding: str, positions: Sequence[int]) -> list[int]:
    """Lines, from 1, of positions in the file as UTF-8, unzipped. `positions` ascend."""
    opener: Any = gzip.open if is_gzip(path) else open
    lines: list[int] = []
    line, chunk_at = 1, 0
    with opener(path, "rb") as source:
        while len(lines) < len(positions) and (raw := source.read(_CHUNK_BYTES)):
            chunk = raw if encoding == "utf-8" else raw.decode(encoding).encode()
            counted_to = 0
            while len(lines) < len(positions) and positions[len(lines)] <= chunk_at + len(chunk):
                place = positions[len(lines)] - chunk_at
                line += chunk.count(b"\n", counted_to, place)
                counted_to = place
                lines.append(line)
            line += chunk.count(b"\n", counted_to)
            chunk_at += len(chunk)
    return lines


def lines_of_ranks(ranks: Iterable[int], skipped: Iterable[int]) -> list[int]:
    """Lines of the n-th lines, from 1, among those that are not `skipped`."""
    # The i-th skipped line s has s - 1 - i others before it, so the n-th other line comes after it where s - i <= n.
    thresholds = [line - place for place, line in enumerate(sorted(set(skipped)))]
    return [rank + bisect.bisect_right(thresholds, rank) for rank in ranks]
