"""Tests whether a difference between two models on the same users is more than chance.

The sign-flip permutation test: if the two models were equally good, each user's difference could as well have the
opposite sign. It assumes no distribution; per-user metrics are mostly 0 and follow none of the usual distributions. The
p-values of several models against one baseline are adjusted by Holm's method, because the best of many models looks
good by chance alone. See docs/decisions/0021.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

PERMUTATIONS: Final = 10_000
_FLIPPED_AT_ONCE: Final = 1 << 22
# Relative tolerance: summing the same numbers in another order rounds differently, and must still count as equal.
_ROUNDING: Final = 1e-9


def sign_flip_p_values(differences: npt.NDArray[np.float64], *, seed: int = 0) -> npt.NDArray[np.float64]:
    """Two-sided p-value of each column's mean being 0: (users, columns) float64 -> (columns,) float64.

    The smallest p-value is 1 / (PERMUTATIONS + 1): the observed data count as a permutation. Fisher 1935; for rankings
    Smucker et al. 2007, "A comparison of statistical significance tests for information retrieval evaluation".
    """
    changed = differences[(differences != 0).any(axis=1)]  # a difference of 0 has no sign to flip
    observed = np.abs(changed.sum(axis=0)) * (1 - _ROUNDING)
    generator = np.random.default_rng(seed)
    num_as_extreme = np.zeros(differences.shape[1], dtype=np.int64)
    batch = max(1, _FLIPPED_AT_ONCE // max(1, len(changed)))
    for start in range(0, PERMUTATIONS, batch):
        num_flips = min(batch, PERMUTATIONS - start)
        signs = 2.0 * generator.integers(0, 2, (num_flips, len(changed)), dtype=np.int8) - 1.0
        num_as_extreme += (np.abs(signs @ changed) >= observed).sum(axis=0)
    return (num_as_extreme + 1) / (PERMUTATIONS + 1)


def holm(p_values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """P-values adjusted for several tests, along the first axis; (tests, ...) float64. Holm 1979."""
    order = np.argsort(p_values, axis=0)
    ascending = np.take_along_axis(p_values, order, axis=0)
    tests_left = len(p_values) - np.arange(len(p_values)).reshape(-1, *[1] * (p_values.ndim - 1))
    adjusted = np.empty_like(p_values)
    np.put_along_axis(adjusted, order, np.minimum(np.maximum.accumulate(ascending * tests_left, axis=0), 1.0), axis=0)
    return adjusted
