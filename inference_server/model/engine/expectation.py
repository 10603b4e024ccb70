"""What the unknown parts of a score are expected to be, from the known part.

Of an item that came after the bundle the blend knows the two towers' score alone. Counting the other parts as the mean
of all users and items would sort it behind everything that was retrieved, for retrieved items lie far above that mean;
leaving them out would sort it before. So for each user they are what this user's other candidates with such a score of
the towers have on average (docs/decisions/0039-live-catalogue.md).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


def expected_others(
    towers: npt.NDArray[np.float32], others: npt.NDArray[np.float32], comparable: npt.NDArray[np.bool_]
) -> npt.NDArray[np.float32]:
    """The least-squares line of `others` over `towers` for each user, at each candidate's `towers`.

    All are (users, candidates); the line is that of the candidates that are `comparable`. It does not fall: a better
    score of the towers never speaks against an item. A user without comparable candidates keeps `others`.
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
