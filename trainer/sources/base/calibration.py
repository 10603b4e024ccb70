"""Mean and standard deviation of scores, with which a blend makes scores of several kinds comparable."""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from tandem.contract.manifest import Calibration

# A smaller standard deviation, relative to the scores, is float32 rounding of equal scores.
_MIN_RELATIVE_STD: Final = 1e-5
_BATCH_VECTORS: Final = 65_536


def calibration_of_scores(scores: npt.NDArray[np.float32]) -> Calibration:
    """Mean and standard deviation of an array of scores, of any shape."""
    mean, mean_square = float(scores.mean(dtype=np.float64)), float(np.square(scores, dtype=np.float64).mean())
    return _from_moments(mean, mean_square)


def calibration_of_products(
    user_vectors: npt.NDArray[np.float32], item_vectors: npt.NDArray[np.floating]
) -> Calibration:
    """Mean and standard deviation of the inner products of all (user, item) pairs: (users, d) and (items, d).

    They follow from the first and second moments of both sides, so no pair has to be scored. Equal scores get standard
    deviation 1: they order no items, whatever the divisor.
    """
    user_mean, user_moment = _moments(user_vectors)
    item_mean, item_moment = _moments(item_vectors)
    mean = float(user_mean @ item_mean)
    mean_square = float((user_moment * item_moment).sum())
    return _from_moments(mean, mean_square)


def _from_moments(mean: float, mean_square: float) -> Calibration:
    std = float(np.sqrt(max(mean_square - mean**2, 0.0)))
    if std <= _MIN_RELATIVE_STD * np.sqrt(mean_square):
        std = 1.0
    return Calibration(mean, std)


def _moments(vectors: npt.NDArray[np.floating]) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Mean, (d,), and mean outer product, (d, d), of (n, d) vectors."""
    dim = vectors.shape[1]
    total, outer = np.zeros(dim), np.zeros((dim, dim))
    for start in range(0, len(vectors), _BATCH_VECTORS):
        batch = vectors[start : start + _BATCH_VECTORS].astype(np.float64)
        total += batch.sum(axis=0)
        outer += batch.T @ batch
    return total / len(vectors), outer / len(vectors)
