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

    @property
    def mean(self) -> float:
        """Mean of the observations; 0 where there are none."""
        count = self.count
        return self.total / count if count else 0.0

    def quantile(self, share: float) -> float:
        """The value below which this share of the observations lies, 0 to 1, as Prometheus' `histogram_quantile` finds
        it: linear within a bucket, and the last bound for what is above it. 0 where there are no observations."""
        rank = share * self.count
        below = 0
        for index, count in enumerate(self.counts[:-1]):
            if count and below + count >= rank:
                upper = self.bounds[index]
                # The first bucket begins at 0; one that ends at 0 or below has no width.
                lower = self.bounds[index - 1] if index else min(0.0, upper)
                return lower + (upper - lower) * (rank - below) / count
            below += count
        return self.bounds[-1] if self.count else 0.0
