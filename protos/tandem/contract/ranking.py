"""The hybrid blend: collaborative and content scores become one, in offline evaluation and in serving alike.

Each kind is calibrated by a mean and a standard deviation that were measured at export over all users and items, not
over one request's candidates: a pair's blended score then does not depend on what else was retrieved, and full ranking
offline orders items exactly as serving does.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt

from tandem.contract.manifest import BlendSpec
from tandem.contract.vocabulary import MISSING_ROW, Rows

PROFILE_EVENTS: Final = 10
"""Newest known events of a user whose content makes the content profile."""


def content_profiles(content_vectors: npt.NDArray[np.floating[Any]], history_rows: Rows) -> npt.NDArray[np.float32]:
    """Mean content vector of each user's newest items.

    `content_vectors` is (items, content_dim), float16 as stored or float32; `history_rows` (users, n) int64, oldest
    first, MISSING_ROW where there is no event, of which the last PROFILE_EVENTS columns are read. Returns (users,
    content_dim) float32, zero for a user without events.
    """
    rows = history_rows[:, -PROFILE_EVENTS:]
    present = rows != MISSING_ROW
    vectors = content_vectors[np.where(present, rows, 0)].astype(np.float32)  # (users, n, content_dim)
    vectors *= present[:, :, None]
    profiles: npt.NDArray[np.float32] = vectors.sum(axis=1)
    profiles /= np.maximum(present.sum(axis=1), 1)[:, None].astype(np.float32)
    return profiles


def blend(
    collaborative: npt.NDArray[np.float32], content: npt.NDArray[np.float32], spec: BlendSpec
) -> npt.NDArray[np.float32]:
    """Blended scores of pairs whose collaborative and content scores (inner products) are given; any one shape."""
    collaborative_share = np.float32((1.0 - spec.content_weight) / spec.collaborative.std)
    content_share = np.float32(spec.content_weight / spec.content.std)
    offset = np.float32(spec.collaborative.mean * collaborative_share + spec.content.mean * content_share)
    blended: npt.NDArray[np.float32] = collaborative * collaborative_share + content * content_share - offset
    return blended
