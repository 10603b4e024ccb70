"""Selection: which candidates are shown, and in which order."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from inference_server.degradation import Source
from inference_server.stages.candidates import Candidates
from inference_server.stages.encode_user import Encoded


@dataclass(frozen=True, kw_only=True, slots=True)
class Selection:
    """What is shown, best first."""

    encoded: Encoded
    source: Source
    rows: list[int]
    scores: list[float]


def select(candidates: Candidates) -> Selection:
    """The best candidates. Equal scores are ordered by row, so that one request has one answer.

    Popular items keep the order in which the bundle lists them.
    """
    rows, scores = candidates.rows, candidates.scores
    if candidates.source is Source.RETRIEVED:
        order = np.lexsort((rows, -scores))
        rows, scores = rows[order], scores[order]
    num_items = candidates.encoded.admitted.num_items
    return Selection(
        encoded=candidates.encoded,
        source=candidates.source,
        rows=rows[:num_items].tolist(),
        scores=scores[:num_items].tolist(),
    )
