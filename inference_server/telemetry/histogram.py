"""A histogram of plain numbers."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence


class Histogram:
    """Counts of observations by bucket."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: tuple[float, ...], counts: Sequence[int] | None = None, total: float = 0.0) -> None:
        """Buckets end at `bounds`; a last one takes what is above. `counts` is the number of observations in each
        bucket (None: no observations yet), `total` the sum of the observed values."""
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1) if counts is None else list(counts)
        self.total = total

    def observe(self, value: float, times: int = 1) -> None:
        """Adds an observation that was made `times` times."""
        self.counts[bisect_left(self.bounds, value)] += times
        self.total += value * times

    def add(self, other: Histogram) -> None:
        """Adds the observations of a histogram with the same bounds."""
        self.counts = [own + added for own, added in zip(self.counts, other.counts, strict=True)]
        self.total += other.total

    @property
    def count(self) -> int:
        """Number of observations."""
        return sum(self.counts)
