"""Candidates, and what may be one: shared by the two stages that propose items, `retrieve` and `fallback`."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from inference_server.bitmap import Bitmap, without_rows
from inference_server.degradation import Source
from inference_server.stages.encode_user import Encoded
from tandem.contract.vocabulary import MISSING_ROW, Rows


@dataclass(frozen=True, kw_only=True, slots=True)
class Candidates:
    """Items that may be recommended; each is allowed and comes once."""

    encoded: Encoded
    source: Source
    rows: Rows
    """(n,) int64."""
    scores: npt.NDArray[np.float32]
    """(n,) float32: inner products (RETRIEVED) or interactions in the training data (POPULAR)."""


def allowed_items(encoded: Encoded) -> Bitmap:
    """The items that the request's filter, and `exclude_seen`, leave. The result may be shared: read only."""
    query = encoded.admitted.query
    model = encoded.admitted.model
    item_filter = query.filter
    allowed = model.catalogue.allowed(item_filter.include_categories, item_filter.exclude_categories)
    if query.exclude_seen and len(encoded.seen_rows):
        allowed = without_rows(allowed, encoded.seen_rows)
    if item_filter.exclude_item_ids:
        rows = model.bundle.item_vocabulary.rows(item_filter.exclude_item_ids)
        allowed = without_rows(allowed, rows[rows != MISSING_ROW])
    return allowed
