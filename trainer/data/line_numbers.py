"""Line numbers of rows: DuckDB counts records, skips blank lines, and gives byte positions of rejected lines.

Users look for a line in their editor, so all of these become exact line numbers, even with line breaks in quotes.
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
    """Whether a file is gzip, by its content and not its name. Raises DataError when it is unreadable."""
    try:
        with path.open("rb") as source:
            return source.read(2) == b"\x1f\x8b"
    except OSError as error:
        raise DataError(f"{path}: unreadable: {error.strerror}") from error


def blank_lines(path: Path) -> list[int]:
    """Numbers, from 1, of the blank lines of the unzipped file, which DuckDB's CSV parser skips silently.

    Read as bytes, because a damaged file may not decode in any encoding.
    """
    opener: Any = gzip.open if is_gzip(path) else open
    with opener(path, "rb") as source:
        return [number for number, line in enumerate(source, start=1) if not line.strip(b"\r\n")]


def lines_at(path: Path, encoding: str, positions: Sequence[int]) -> list[int]:
    """Line numbers, from 1, of ascending byte positions in the unzipped file, encoded as UTF-8."""
    opener: Any = gzip.open if is_gzip(path) else open
    lines: list[int] = []
    line, chunk_start = 1, 0
    with opener(path, "rb") as source:
        while len(lines) < len(positions) and (raw := source.read(_CHUNK_BYTES)):
            chunk = raw if encoding == "utf-8" else raw.decode(encoding).encode()
            counted_to = 0
            while len(lines) < len(positions) and positions[len(lines)] <= chunk_start + len(chunk):
                offset = positions[len(lines)] - chunk_start
                line += chunk.count(b"\n", counted_to, offset)
                counted_to = offset
                lines.append(line)
            line += chunk.count(b"\n", counted_to)
            chunk_start += len(chunk)
    return lines


def lines_of_ranks(ranks: Iterable[int], skipped: Iterable[int]) -> list[int]:
    """Line numbers of the n-th lines, from 1, counted without the `skipped` lines."""
    # Before the i-th skipped line s there are s - 1 - i lines that count, so the n-th of them is after s if s - i <= n.
    thresholds = [line - index for index, line in enumerate(sorted(set(skipped)))]
    return [rank + bisect.bisect_right(thresholds, rank) for rank in ranks]
