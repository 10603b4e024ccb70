"""Compares a shadow's answer with the own model's, and counts what differs."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from inference_server.core.shadow_outcome import ShadowOutcome
from inference_server.model.catalogue.catalogue import Catalogue
from inference_server.request.flow.types import Admitted, Answered
from inference_server.request.shadow.rank_similarity import overlap, rank_biased_overlap
from inference_server.telemetry.shadow_counts import ShadowCounts, Side
from tandem.contract.vocabulary import Rows, id_keys


@dataclass(frozen=True, kw_only=True, slots=True)
class OwnAnswer:
    """What the own model answered, as far as it is compared."""

    admitted: Admitted
    item_ids: list[str]
    scores: list[float]
    """Parallel to `item_ids`, best first."""
    state_revision: int
    """Revision of the user's state that was read."""
    answered_at: float
    """time.monotonic seconds."""


def judge(own: OwnAnswer, shadow: Answered, counts: ShadowCounts) -> None:
    """Counts what became of a shadow's answer, and compares it where both are complete."""
    outcome = _outcome(own, shadow)
    counts.count(outcome)
    if outcome is ShadowOutcome.DEGRADED:
        for reason in shadow.answer.degraded_reasons:
            counts.count_degraded(reason)
    elif outcome is ShadowOutcome.COMPARED:
        compare(own, shadow.answer.item_ids, shadow.answer.scores, counts)
        _compare_items(own.admitted.model.catalogue, own.item_ids, shadow.answer.item_ids, counts)


def _outcome(own: OwnAnswer, shadow: Answered) -> ShadowOutcome:
    answer = shadow.answer
    if answer.degraded_reasons:
        return ShadowOutcome.DEGRADED
    if shadow.chosen.user.state.revision != own.state_revision:
        return ShadowOutcome.STATE_CHANGED
    if not answer.item_ids:
        return ShadowOutcome.EMPTY
    return ShadowOutcome.COMPARED if all(map(math.isfinite, answer.scores)) else ShadowOutcome.NOT_FINITE


def compare(own: OwnAnswer, item_ids: list[str], scores: list[float], counts: ShadowCounts) -> None:
    """Counts how a list, best first, and its scores differ from the own model's. Both are finite and not empty."""
    counts.overlap.observe(overlap(own.item_ids, item_ids))
    counts.rank_biased_overlap.observe(rank_biased_overlap(own.item_ids, item_ids))
    counts.count_lists(
        same_first_item=own.item_ids[0] == item_ids[0],
        same_list=own.item_ids == item_ids,
        shorter=len(item_ids) < len(own.item_ids),
    )
    positions = {item_id: position for position, item_id in enumerate(item_ids)}
    for own_position, (item_id, own_score) in enumerate(zip(own.item_ids, own.scores, strict=True)):
        counts.scores[Side.OWN].observe(own_score)
        position = positions.get(item_id)
        if position is not None:
            counts.score_difference.observe(scores[position] - own_score)
            counts.rank_shift.observe(abs(position - own_position))
    for score in scores:
        counts.scores[Side.SHADOW].observe(score)


def _compare_items(catalogue: Catalogue, own: list[str], shadow: list[str], counts: ShadowCounts) -> None:
    """What kind of items each list has, both by the own model's catalogue: two bundles count different histories."""
    for side, item_ids in ((Side.OWN, own), (Side.SHADOW, shadow)):
        rows: Rows = catalogue.known_rows(id_keys(item_ids))
        if len(rows):
            counts.popularity[side].observe(float(np.mean(catalogue.popularity_of(rows))))
            categories = {name for names in catalogue.categories_of(rows) for name in names}
            counts.categories[side].observe(len(categories))
