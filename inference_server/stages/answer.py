"""The answer: ids instead of rows, and the reasons where they were asked for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np

from inference_server.degradation import Degraded, Source
from inference_server.stages.select import Selection
from tandem.contract import names

MAX_BECAUSE_ITEMS: Final = 3
_POPULARITY: Final = "popularity"


@dataclass(frozen=True, kw_only=True, slots=True)
class Reason:
    """Why one item is recommended."""

    source: str
    because_item_ids: tuple[str, ...]
    """Items of the user's history that are nearest to this one, nearest first."""
    score_parts: Mapping[str, float]
    title: str
    propensity: float = 1.0
    """Probability with which the policy showed the item at its place."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """What the caller gets. `item_ids`, `scores` and, where asked for, `reasons` go together, best first."""

    request_id: str
    item_ids: list[str]
    scores: list[float]
    reasons: list[Reason] | None
    model_version: str
    variant: str
    source: Source
    degraded_reasons: tuple[Degraded, ...]
    next_page_token: str = ""
    """Empty: there is no further page."""


def answer(selection: Selection) -> Answer:
    """Puts the answer together."""
    encoded = selection.encoded
    admitted = encoded.admitted
    model = admitted.model
    return Answer(
        request_id=admitted.request_id,
        item_ids=model.bundle.items.item_ids(selection.rows),
        scores=selection.scores,
        reasons=_explain(selection) if admitted.query.explain else None,
        model_version=model.version,
        variant=model.variant,
        source=selection.source,
        degraded_reasons=encoded.degraded_reasons,
    )


def _explain(selection: Selection) -> list[Reason]:
    items = selection.encoded.admitted.model.bundle.items
    popular = selection.source is Source.POPULAR
    because = [[] for _ in selection.rows] if popular else _nearest_history(selection)
    return [
        Reason(
            source=names.SOURCE_POPULAR if popular else names.SOURCE_TWO_TOWER,
            because_item_ids=tuple(items.item_ids(because_rows)),
            score_parts={_POPULARITY if popular else names.SOURCE_TWO_TOWER: score},
            title=items.title(row),
        )
        for row, score, because_rows in zip(selection.rows, selection.scores, because, strict=True)
    ]


def _nearest_history(selection: Selection) -> list[list[int]]:
    """For every selected item the rows of the user's events that are nearest to it, the item itself left out."""
    model = selection.encoded.admitted.model
    vectors = model.bundle.item_vectors
    history = np.unique(model.known_rows(selection.encoded.state.event_item_keys))
    similarities = vectors[selection.rows] @ vectors[history].T  # (selected, history) float32
    nearest = history[np.argsort(-similarities, axis=1, kind="stable")[:, : MAX_BECAUSE_ITEMS + 1]]
    return [
        [int(candidate) for candidate in candidates if candidate != row][:MAX_BECAUSE_ITEMS]
        for row, candidates in zip(selection.rows, nearest, strict=True)
    ]
