"""Inequality of a distribution of counts."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


def gini_of_counts(counts: npt.NDArray[np.int64]) -> float:
    """Gini coefficient of counts, (n,) int64: half their mean absolute difference, divided by their mean.

    0 if all counts are equal, also if all are 0; near 1 if a single count has nearly the whole sum.
    """
    ascending, num_counts = np.sort(counts), len(counts)
    if ascending.sum() == 0:
        return 0.0
    rank = np.arange(1, num_counts + 1)
    return float(((2 * rank - num_counts - 1) * ascending).sum() / (num_counts * ascending.sum()))
