"""The answer: ids instead of rows, the next page's token, and the reasons where the request asks for them."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from typing import Final

import numpy as np

from inference_server.core.answers import Answer, Reason
from inference_server.core.degradation import Degraded
from inference_server.model.catalogue.catalogue import Catalogue
from inference_server.request.flow.ladder import ANSWER
from inference_server.request.flow.stage_clock import stage
from inference_server.request.flow.types import Answered, Chosen, Selection
from tandem.contract.names import SOURCE_POPULAR
from tandem.contract.vocabulary import Rows

MAX_BECAUSE_ITEMS: Final = 3
_POPULARITY: Final = "popularity"


@stage(ANSWER, budgeted=lambda selections: not selections[0].ranked.is_ordered)
def answer(selections: Sequence[Selection], *, with_sources: bool = False) -> list[Answered]:
    """Builds the answers of all users. `with_sources` fills `Answer.sources`."""
    return [answered for selection in selections for answered in _answers(selection, with_sources=with_sources)]


def _answers(selection: Selection, *, with_sources: bool) -> list[Answered]:
    ranked = selection.ranked
    model = ranked.model
    # One look-up of ids for the whole batch.
    all_rows = np.concatenate([chosen.rows for chosen in selection.chosen])
    item_ids = model.catalogue.item_ids(all_rows)
    stable_rows = model.catalogue.stable_rows(all_rows)
    answered = []
    start = 0
    for index, chosen in enumerate(selection.chosen):
        admitted = chosen.user.admitted
        stop = start + len(chosen.rows)
        result = Answer(
            request_id=admitted.request_id,
            item_ids=item_ids[start:stop],
            scores=chosen.scores.tolist(),
            reasons=_explain(selection, index) if admitted.query.explain else None,
            model_version=model.version,
            variant=model.variant,
            source=ranked.source,
            degraded_reasons=_degraded_reasons(chosen),
            assignments=admitted.assignments,
            next_page_token=_next_page(chosen, stable_rows[start:stop]),
            propensities=None if chosen.propensities is None else chosen.propensities.tolist(),
            num_candidates=0 if chosen.ranks is None else len(chosen.pool_rows),
            ranks=() if chosen.ranks is None else chosen.ranks.tolist(),
            sources=_sources(selection, chosen) if with_sources else [],
        )
        answered.append(Answered(ranked=ranked, chosen=chosen, answer=result))
        start = stop
    return answered


def _degraded_reasons(chosen: Chosen) -> tuple[Degraded, ...]:
    reasons = chosen.user.degraded_reasons
    # Added here and not at admission: for the stages and the lists in memory the answer is as good as any other.
    return (*reasons, Degraded.ARM_UNAVAILABLE) if chosen.user.admitted.arm_unavailable else reasons


def _next_page(chosen: Chosen, shown: Rows) -> str:
    """The token of the next page, which leaves out all items shown so far; empty after a page that could not be filled.

    `shown` is (n,) int64, the stable rows of this page.
    """
    admitted = chosen.user.admitted
    if len(shown) < admitted.num_items:
        return ""
    if len(admitted.shown_rows):
        shown = np.concatenate([admitted.shown_rows, shown])
    return admitted.model.page_tokens.issue(shown, admitted.fingerprint)


def _sources(selection: Selection, chosen: Chosen) -> list[str]:
    """The source of each item shown."""
    columns = selection.ranked.columns
    starts = [source_columns.start for source_columns in columns]
    # For ten items, bisect takes a tenth of the time that numpy's search does.
    return [columns[bisect_right(starts, column) - 1].source for column in chosen.columns.tolist()]


def _explain(selection: Selection, user_index: int) -> list[Reason]:
    ranked, chosen = selection.ranked, selection.chosen[user_index]
    catalogue = ranked.model.catalogue
    because = _nearest_history(catalogue, chosen)
    reasons = []
    for position, (row, column, source) in enumerate(
        zip(chosen.rows.tolist(), chosen.columns.tolist(), _sources(selection, chosen), strict=True)
    ):
        score = float(chosen.scores[position])
        if ranked.is_ordered:
            score_parts = {_POPULARITY if source == SOURCE_POPULAR else source: score}
        else:
            parts = {name: float(part[user_index, column]) for name, part in ranked.parts}
            # NaN: a part that is unknown because the item came after the bundle.
            score_parts = {name: part for name, part in parts.items() if not math.isnan(part)}
            if boost := score - float(ranked.scores[user_index, column]):
                score_parts["boost"] = boost
        reasons.append(
            Reason(
                source=source,
                because_item_ids=tuple(catalogue.item_ids(np.array(because[position], dtype=np.int64))),
                score_parts=score_parts,
                title=catalogue.title(row),
                propensity=1.0 if chosen.propensities is None else float(chosen.propensities[position]),
            )
        )
    return reasons


def _nearest_history(catalogue: Catalogue, chosen: Chosen) -> Sequence[Sequence[int]]:
    """For each shown item: the rows of the user's events that are nearest to it, without the item itself."""
    history = np.unique(catalogue.known_rows(chosen.user.state.event_item_keys))
    if not len(history):
        return [[] for _ in chosen.rows]
    similarities = catalogue.vectors[chosen.rows] @ catalogue.vectors[history].T  # (shown, history) float32
    nearest = history[np.argsort(-similarities, axis=1, kind="stable")[:, : MAX_BECAUSE_ITEMS + 1]]
    return [
        [int(candidate) for candidate in candidates if candidate != row][:MAX_BECAUSE_ITEMS]
        for row, candidates in zip(chosen.rows, nearest, strict=True)
    ]
