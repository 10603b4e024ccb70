"""Expected values of the parts of a score that are unknown, given the part that is known.

For an item that came after the bundle, the blend knows only the two-tower score. Taking the mean over all users and
items for the other parts would rank the item last, because retrieved items lie far above that mean; leaving the other
parts out would rank it first. So they get the value that the same user's other candidates have on average at that
two-tower score (docs/decisions/0039-live-catalogue.md).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


def expected_others(
    towers: npt.NDArray[np.float32], others: npt.NDArray[np.float32], comparable: npt.NDArray[np.bool_]
) -> npt.NDArray[np.float32]:
    """For each user, the least-squares line of `others` over `towers`, evaluated at each candidate's `towers`.

    All arrays are (users, candidates), and so is the result, float32. The line is fitted to the candidates that are
    `comparable`. Its slope is never negative: a better two-tower score must not count against an item. A user without
    comparable candidates keeps `others`.
    """
    count = comparable.sum(axis=1, keepdims=True)
    share = comparable / np.maximum(count, 1)
    mean_towers = (towers * share).sum(axis=1, keepdims=True)
    mean_others = (others * share).sum(axis=1, keepdims=True)
    deviation = towers - mean_towers
    covariance = (deviation * (others - mean_others) * share).sum(axis=1, keepdims=True)
    variance = (deviation * deviation * share).sum(axis=1, keepdims=True)
    slope = np.maximum(covariance, 0.0) / np.maximum(variance, np.finfo(np.float32).tiny)
    return np.where(count > 0, mean_others + slope * deviation, others).astype(np.float32)
