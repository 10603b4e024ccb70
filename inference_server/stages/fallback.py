"""Fallback: the bundle's popular items, from memory. Runs only where there is no user vector to retrieve with."""

from __future__ import annotations

import numpy as np

from inference_server.bitmap import rows_in, without_rows
from inference_server.degradation import Source
from inference_server.stages.candidates import Candidates, allowed_items
from inference_server.stages.encode_user import Encoded


def popular_items(encoded: Encoded) -> Candidates:
    """The most popular allowed items; as many as were asked for, whenever the filter leaves that many."""
    admitted = encoded.admitted
    catalogue = admitted.model.catalogue
    allowed = allowed_items(encoded)
    found = np.empty(0, dtype=np.int64)
    for rows in catalogue.popular_rows(admitted.query.filter.include_categories):
        found = np.concatenate([found, rows[rows_in(allowed, rows)]])[: admitted.num_items]
        if len(found) == admitted.num_items:
            break
        # The bundle's list is a part of the catalogue that follows it: nothing may come twice.
        allowed = without_rows(allowed, found)
    scores = catalogue.popularity[found].astype(np.float32)
    return Candidates(encoded=encoded, source=Source.POPULAR, rows=found, scores=scores)
