"""The hybrid blend: collaborative and content scores become one, in offline evaluation and in serving alike.

Each kind is calibrated by a mean and a standard deviation that were measured at export over all users and items, not
over one request's candidates: a pair's blended score then does not depend on what else was retrieved, and full ranking
offline orders items exactly as serving does. The collaborative score is that of the two towers, or that and the
item-item and sequential sources together (`tandem.contract.item_item`).
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt

from tandem.contract.manifest import BlendSpec
from tandem.contract.vocabulary import MISSING_ROW, Rows

PROFILE_EVENTS: Final = 10
"""Number of newest events with a known item that make up the content profile."""
PROFILE_DECAY_EVENTS: Final = 5.0
"""Decay of the content profile: an event this many events older than the newest counts 1/e of it."""


def content_profiles(content_vectors: npt.NDArray[np.floating[Any]], history_rows: Rows) -> npt.NDArray[np.float32]:
    """Mean content vector of each user's newest items, weighted by exp(-age / PROFILE_DECAY_EVENTS).

    `content_vectors` is (items, content_dim), float16 as stored or float32; `history_rows` (users, n) int64, oldest
    first, MISSING_ROW where there is no event, of which the last PROFILE_EVENTS columns are read. Returns (users,
    content_dim) float32, zero for a user without events.
    """
    rows = history_rows[:, -PROFILE_EVENTS:]
    present = rows != MISSING_ROW
    vectors = content_vectors[np.where(present, rows, 0)].astype(np.float32)  # (users, n, content_dim)
    decay = np.exp(-np.arange(rows.shape[1] - 1, -1, -1, dtype=np.float32) / np.float32(PROFILE_DECAY_EVENTS))
    weights = present * decay
    weights /= np.maximum(weights.sum(axis=1, keepdims=True), np.finfo(np.float32).tiny)
    profiles: npt.NDArray[np.float32] = np.matmul(weights[:, None], vectors)[:, 0]
    return profiles


def blend(
    two_tower: npt.NDArray[np.float32],
    content: npt.NDArray[np.float32] | None,
    spec: BlendSpec,
    item_item: npt.NDArray[np.float32] | None = None,
    sequential: npt.NDArray[np.float32] | None = None,
) -> npt.NDArray[np.float32]:
    """Blends the scores of (user, item) pairs by the two towers, content, the item-item and the sequential source.

    All arrays have the same shape. `content` is None if the bundle has none; `item_item` and `sequential` are given if
    and only if the blend has that source.
    """
    towers_weight = 1.0 - spec.content_weight
    offset = 0.0
    weighted_parts = []
    for source, source_scores in ((spec.item_item, item_item), (spec.sequential, sequential)):
        if source is not None and source_scores is not None:
            share = towers_weight * source.weight / source.calibration.std
            towers_weight *= 1.0 - source.weight
            weighted_parts.append(source_scores * np.float32(share))
            offset += source.calibration.mean * share
    if spec.content is not None and content is not None:
        share = spec.content_weight / spec.content.std
        weighted_parts.append(content * np.float32(share))
        offset += spec.content.mean * share
    towers_share = towers_weight / spec.collaborative.std
    offset += spec.collaborative.mean * towers_share
    blended: npt.NDArray[np.float32] = two_tower * np.float32(towers_share)
    for scores in weighted_parts:
        blended += scores
    blended -= np.float32(offset)
    return blended
