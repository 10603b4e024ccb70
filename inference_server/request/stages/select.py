"""Selection: which candidates are shown, and in which order.

    objectives -> boosts -> order by score -> diversity (MMR) -> category caps -> exploration

Equal scores are ordered by row, so that equal requests have equal answers. Exploration comes last, so that the logged
propensity is that of the item shown; caps are applied to the whole pool that exploration draws from, so that it cannot
break them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from inference_server.core.degradation import Degraded
from inference_server.core.query import AttributePredicate, Clause
from inference_server.model.catalogue.bitmap import rows_in
from inference_server.model.serving_model import ServingModel
from inference_server.policy.policy import Boost, Policy
from inference_server.request.flow.ladder import SELECT
from inference_server.request.flow.stage_clock import stage
from inference_server.request.flow.types import Chosen, Ranked, Selection, User
from inference_server.request.selection.caps import apply_caps, category_codes
from inference_server.request.selection.mmr import diversify
from tandem.contract.exploration import explore, rng_for


@stage(SELECT, budgeted=lambda ranked: not ranked[0].is_ordered)
def select(ranked: Sequence[Ranked]) -> list[Selection]:
    """Chooses the items that every user is shown: one `Selection` per `Ranked`."""
    return [_select(ranker_group) for ranker_group in ranked]


def _select(ranked: Ranked) -> Selection:
    scores = ranked.scores
    if any(user.admitted.policy.boosts or user.admitted.policy.objectives for user in ranked.users):
        scores = scores.copy()
        for index, user in enumerate(ranked.users):
            _move(scores[index], ranked.rows[index], user.admitted.policy, ranked.model)
    # The maximum passes NaN and infinity on, in a quarter of the time of np.isfinite.
    if len(scores) and not scores.max(initial=-np.inf) < np.inf:
        ranked, scores = _without_non_finite(ranked, scores)
    rows, columns = ranked.rows, np.broadcast_to(np.arange(scores.shape[1]), scores.shape)
    if not ranked.is_ordered:
        users = np.arange(len(scores))[:, None]
        columns = _best_first(scores, rows)
        rows, scores = rows[users, columns], scores[users, columns]
    counts = np.count_nonzero(scores > -np.inf, axis=1).tolist()
    chosen = [
        _choose(user, rows[index, :count], scores[index, :count], columns[index, :count])
        for index, (user, count) in enumerate(zip(ranked.users, counts, strict=True))
    ]
    return Selection(ranked=ranked, chosen=chosen)


def _without_non_finite(ranked: Ranked, scores: npt.NDArray[np.float32]) -> tuple[Ranked, npt.NDArray[np.float32]]:
    """Leaves the candidates out whose score is NaN or infinite, and gives their users a reason."""
    lost: npt.NDArray[np.bool_] = np.isnan(scores) | np.isposinf(scores)
    users = [
        user.with_reason(Degraded.SCORES_NOT_FINITE) if user_loses else user
        for user, user_loses in zip(ranked.users, np.any(lost, axis=1), strict=True)
    ]
    return replace(ranked, users=users), np.where(lost, np.float32(-np.inf), scores)


def _best_first(scores: npt.NDArray[np.float32], rows: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Columns by descending score, equal scores by row: (users, candidates) int64."""
    order = np.argsort(-scores, axis=1)
    in_order = np.take_along_axis(scores, order, axis=1)
    # Two sort keys cost twice as much as one, and equal scores are rare.
    equal = (in_order[:, 1:] == in_order[:, :-1]) & (in_order[:, 1:] > -np.inf)
    for index in np.flatnonzero(equal.any(axis=1)):
        order[index] = np.lexsort((rows[index], -scores[index]))
    return order


def _choose(
    user: User, rows: npt.NDArray[np.int64], scores: npt.NDArray[np.float32], columns: npt.NDArray[np.int64]
) -> Chosen:
    """Chooses from one user's candidates, (n,) each, best first."""
    admitted = user.admitted
    policy, num_items = admitted.policy, admitted.num_items
    diversity = policy.diversity if admitted.query.diversity is None else admitted.query.diversity
    propensities = ranks = None
    shown: slice | npt.NDArray[np.int64] = slice(num_items)
    if diversity > 0.0 or not policy.is_plain:
        order = np.arange(len(rows))
        if diversity > 0.0 and len(order) > 1:
            vectors = admitted.model.catalogue.vectors[rows]
            # The whole pool only where a later step may need more items than are shown.
            wanted = num_items if policy.is_plain else len(order)
            order = diversify(scores, vectors, diversity=diversity, num_items=wanted)
        if policy.max_per_category or policy.category_caps:
            order = _cap(order, rows, policy, admitted.model)
        rows, scores, columns = rows[order], scores[order], columns[order]
        if policy.exploration > 0.0:
            ranks, propensities = explore(
                np.arange(len(rows)),
                num_items=num_items,
                exploration=policy.exploration,
                rng=rng_for(admitted.request_id),
            )
            shown = ranks
    return Chosen(
        user=user,
        rows=rows[shown],
        scores=scores[shown],
        columns=columns[shown],
        propensities=propensities,
        ranks=ranks,
        pool_rows=rows,
        pool_scores=scores,
    )


def _move(scores: npt.NDArray[np.float32], rows: npt.NDArray[np.int64], policy: Policy, model: ServingModel) -> None:
    """Adds what objectives and boosts add, in units of the standard deviation of this user's candidates."""
    present = np.flatnonzero(np.isfinite(scores))
    if not len(present):
        return
    unit = scores[present].std() or np.float32(1.0)
    if policy.objectives is not None:
        scores[present] += model.item_values.of_rows(rows[present], policy.objectives.by_type) * unit
    for boost in policy.boosts:
        mask = model.catalogue.mask((boost_clause(boost),))
        scores[present[rows_in(mask.bitmap, rows[present])]] += np.float32(boost.add) * unit


def boost_clause(boost: Boost) -> Clause:
    """The items that a boost moves."""
    if boost.category:
        return Clause(include_categories=(boost.category,))
    return Clause(
        attributes=(AttributePredicate(name=boost.attribute, any_of=boost.any_of, min=boost.min, max=boost.max),)
    )


def _cap(
    order: npt.NDArray[np.int64], rows: npt.NDArray[np.int64], policy: Policy, model: ServingModel
) -> npt.NDArray[np.int64]:
    """`order` without the items that the policy's category caps forbid."""
    names, codes = category_codes(model.catalogue.categories_of(rows[order]))
    caps = {code: policy.category_caps[name] for code, name in enumerate(names) if name in policy.category_caps}
    return order[apply_caps(np.arange(len(order)), codes, caps=caps, default_cap=policy.max_per_category)]
