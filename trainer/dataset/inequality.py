"""How unequally counts are distributed."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


def gini_of_counts(counts: npt.NDArray[np.int64]) -> float:
    """Gini coefficient of counts, (n,) int64, half their mean absolute difference over their mean.

    0: all are equal; towards 1: one has all. 0 where all are 0.
    """
    ascending, num = np.sort(counts), len(counts)
    if ascending.sum() == 0:
        return 0.0
    place = np.arange(1, num + 1)
    return float(((2 * place - num - 1) * ascending).sum() / (num * ascending.sum()))
