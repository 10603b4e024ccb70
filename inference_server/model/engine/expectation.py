"""Expected values of the unknown parts of a score, given the known part.

For an item that came after the bundle, the blend knows only the two-tower score. With the mean over all users and items
for its other parts, the item would rank last, because retrieved items lie far above that mean; without them it would
rank first. So these parts get the value that the same user's known candidates have on average at that two-tower score
(docs/decisions/0039-live-catalogue.md).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


def expected_non_tower_scores(
    tower_scores: npt.NDArray[np.float32],
    non_tower_scores: npt.NDArray[np.float32],
    comparable: npt.NDArray[np.bool_],
) -> npt.NDArray[np.float32]:
    """For each user, the least-squares line of `non_tower_scores` over `tower_scores`, evaluated at `tower_scores`.

    All arrays are (users, candidates), and so is the result, float32. The line is fitted to the candidates that are
    `comparable`. Its slope is never negative: a better two-tower score must not count against an item. A user without
    comparable candidates keeps `non_tower_scores`.
    """
    count = comparable.sum(axis=1, keepdims=True)
    share = comparable / np.maximum(count, 1)
    mean_tower_score = (tower_scores * share).sum(axis=1, keepdims=True)
    mean_non_tower_score = (non_tower_scores * share).sum(axis=1, keepdims=True)
    deviation = tower_scores - mean_tower_score
    covariance = (deviation * (non_tower_scores - mean_non_tower_score) * share).sum(axis=1, keepdims=True)
    variance = (deviation * deviation * share).sum(axis=1, keepdims=True)
    slope = np.maximum(covariance, 0.0) / np.maximum(variance, np.finfo(np.float32).tiny)
    return np.where(count > 0, mean_non_tower_score + slope * deviation, non_tower_scores).astype(np.float32)
