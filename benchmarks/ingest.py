"""Ingest of a large file of reviews: time and peak memory of `python -m trainer prepare`.

`python -m benchmarks.ingest [--reviews N] [--output PATH]` writes a gzip file of reviews in the official Amazon format
of 2023, with synthetic users, items and texts, prepares it in a separate process, and prints the time and memory.

Popularity of items follows a power law, as in real data; users have five reviews on average. Reviews have texts because
real files have them, and a reader has to skip them.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

import numpy as np

from benchmarks.environment.machine import describe_machine

_CHUNK: Final = 100_000
_REVIEWS_PER_USER: Final = 5
_REVIEWS_PER_ITEM: Final = 20
_POWER: Final = 2.5
"""An item's number is num_items * u ** _POWER for a uniform u: the first tenth of items gets two fifths of reviews."""
_TEXTS: Final = tuple(f"{'It does what it should, and has done so for months. ' * repeats}" for repeats in range(1, 9))
_FIRST_MILLISECOND: Final = 1_500_000_000_000
_MILLISECONDS: Final = 150_000_000_000
_GIB: Final = 2**30


@dataclass(frozen=True, kw_only=True)
class Ingest:
    """The prepared data, and the time and memory that preparing took."""

    num_reviews: int
    num_users: int
    num_items: int
    num_interactions: int
    file_bytes: int
    """Size of the gzip file."""
    seconds: float
    cpu_seconds: float
    peak_bytes: int
    """Peak resident memory of the process, which includes pyarrow and DuckDB."""

    def __str__(self) -> str:
        return (
            f"{self.num_reviews:,} reviews ({self.file_bytes / _GIB:.2f} GiB of gzip) of {self.num_users:,} users and "
            f"{self.num_items:,} items, {self.num_interactions:,} interactions kept: {self.seconds:.0f} s "
            f"({self.cpu_seconds:.0f} s of processor time), peak memory {self.peak_bytes / _GIB:.2f} GiB"
        )


def review_lines(num_reviews: int, *, seed: int = 0) -> Iterator[bytes]:
    """Lines of the file, in chunks of up to 100,000 reviews."""
    generator = np.random.default_rng(seed)
    num_users, num_items = max(1, num_reviews // _REVIEWS_PER_USER), max(1, num_reviews // _REVIEWS_PER_ITEM)
    for start in range(0, num_reviews, _CHUNK):
        count = min(_CHUNK, num_reviews - start)
        columns = zip(
            generator.integers(0, num_users, count).tolist(),
            (num_items * generator.random(count) ** _POWER).astype(np.int64).tolist(),
            generator.choice([1, 2, 3, 4, 5], count, p=[0.1, 0.05, 0.1, 0.2, 0.55]).tolist(),
            (_FIRST_MILLISECOND + generator.integers(0, _MILLISECONDS, count)).tolist(),
            generator.integers(0, len(_TEXTS), count).tolist(),
            strict=True,
        )
        yield "".join(
            f'{{"rating": {rating}.0, "title": "As expected", "text": "{_TEXTS[text]}", "images": [], '
            f'"asin": "B{item:09}", "parent_asin": "B{item:09}", "user_id": "AE{user:026}", "timestamp": {at}, '
            f'"helpful_vote": 0, "verified_purchase": true}}\n'
            for user, item, rating, at, text in columns
        ).encode()


def write_reviews(path: Path, num_reviews: int) -> None:
    """Writes the file, unless it exists."""
    if path.is_file():
        return
    staging = path.with_suffix(".tmp")
    with gzip.open(staging, "wb", compresslevel=1) as sink:
        for lines in review_lines(num_reviews):
            sink.write(lines)
    staging.replace(path)


def measure_ingest(reviews: Path, num_reviews: int, folder: Path) -> Ingest:
    """Prepares the file in a child process, which must be this process's first: the kernel sums usage of children."""
    command = [sys.executable, "-m", "trainer", "prepare", "--dataset", "amazon", "--reviews", str(reviews)]
    environment = {**os.environ, "TANDEM_DATA_DIR": str(folder), "TANDEM_REGISTRY_URI": f"sqlite:///{folder}/mlflow.db"}
    started = time.monotonic()
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    seconds = time.monotonic() - started
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    prepared = json.loads(done.stdout.splitlines()[-1])
    return Ingest(
        num_reviews=num_reviews,
        num_users=prepared["num_users"],
        num_items=prepared["num_items"],
        num_interactions=prepared["num_interactions"],
        file_bytes=reviews.stat().st_size,
        seconds=seconds,
        cpu_seconds=used.ru_utime + used.ru_stime,
        peak_bytes=used.ru_maxrss * 1024,
    )


def main() -> None:
    """Writes the file, prepares it and prints the figures."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.ingest", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--reviews", type=int, default=10_000_000, help="reviews in the file (default: %(default)s)")
    parser.add_argument(
        "--folder", type=Path, help="keep the file here for the next call (default: a temporary folder)"
    )
    parser.add_argument("--output", type=Path, metavar="PATH", help="also write the figures to PATH as JSON")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="tandem-ingest-") as scratch:
        folder = options.folder or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        reviews = folder / f"reviews-{options.reviews}.jsonl.gz"
        write_reviews(reviews, options.reviews)
        ingest = measure_ingest(reviews, options.reviews, Path(scratch))
    print(ingest)
    if options.output:
        options.output.write_text(json.dumps({"machine": describe_machine(), **asdict(ingest)}, indent=2) + "\n")


if __name__ == "__main__":
    main()
