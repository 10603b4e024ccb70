"""Ranking: the ranker that the policy names and the bundle has orders the candidates of a batch."""

from __future__ import annotations

import time
from collections.abc import Sequence
from itertools import groupby

import numpy as np
import numpy.typing as npt
import structlog

from inference_server.core.breaker import Breaker
from inference_server.core.degradation import Degraded, Source
from inference_server.model.rankers.ranker import (
    CONTENT,
    ITEM_ITEM,
    SEQUENTIAL,
    USER_INDEX,
    Ranker,
    RankerBatch,
    Scores,
    UnknownParts,
)
from inference_server.model.serving_model import ServingModel
from inference_server.policy.choices import AUTO, NO_RANKER
from inference_server.policy.policy import Policy
from inference_server.request.flow.engine_calls import EngineCalls
from inference_server.request.flow.ladder import RANK, Rung
from inference_server.request.flow.stage_clock import stage
from inference_server.request.flow.types import Candidates, Ranked, User
from inference_server.telemetry.statistics import Statistics
from tandem.contract import names

_log = structlog.get_logger()

_Group = slice | list[int]
"""Indices of the users of a batch that share a ranker."""
_EVERY_USER = slice(None)


@stage(RANK)
async def rank(
    candidates: Candidates, engines: EngineCalls, breaker: Breaker, statistics: Statistics
) -> Sequence[Ranked]:
    """Scores the candidates. Returns one `Ranked` per ranker that the users' policies name, usually a single one.

    The two-tower score orders the candidates where there is no ranker, the ranker fails or time is short.
    """
    users = candidates.users
    rankers = [ranker_of(user.admitted.policy, candidates.encoded.model) for user in users]
    if users[0].rung >= Rung.NO_RANKER:
        skipped = [
            user if ranker is None else user.with_reason(Degraded.RANKER_SKIPPED)
            for user, ranker in zip(users, rankers, strict=True)
        ]
        return [_by_two_tower(candidates, skipped, _EVERY_USER)]
    started_at = time.perf_counter()
    ranked = await _rank_by_ranker(candidates, rankers, engines, breaker, statistics)
    if any(ranker is not None for ranker in rankers):
        engines.ladder.observe(RANK, time.perf_counter() - started_at)
    return ranked


async def _rank_by_ranker(
    candidates: Candidates,
    rankers: Sequence[Ranker | None],
    engines: EngineCalls,
    breaker: Breaker,
    statistics: Statistics,
) -> Sequence[Ranked]:
    """Ranks the users of each ranker together; `rankers` holds one for each user."""
    users = candidates.users
    if all(ranker is rankers[0] for ranker in rankers):
        return [await _rank_group(candidates, users, _EVERY_USER, rankers[0], engines, breaker, statistics)]
    ranked = []
    order = sorted(range(len(users)), key=lambda index: id(rankers[index]))
    for _, indices in groupby(order, key=lambda index: id(rankers[index])):
        group = list(indices)
        group_users = [users[index] for index in group]
        ranker = rankers[group[0]]
        ranked.append(await _rank_group(candidates, group_users, group, ranker, engines, breaker, statistics))
    return ranked


def ranker_of(policy: Policy, model: ServingModel) -> Ranker | None:
    """The ranker that a policy names; None where it names none or the bundle does not have it."""
    if policy.ranker == AUTO:
        ranker = next(iter(model.rankers.values()), None)
    else:
        ranker = None if policy.ranker == NO_RANKER else model.rankers.get(policy.ranker)
    if ranker is None or policy.content_weight is None:
        return ranker
    return ranker.with_content_weight(policy.content_weight)


async def _rank_group(  # noqa: PLR0917 - a ranker's input, and where it runs
    candidates: Candidates,
    users: Sequence[User],
    group: _Group,
    ranker: Ranker | None,
    engines: EngineCalls,
    breaker: Breaker,
    statistics: Statistics,
) -> Ranked:
    if ranker is None:
        return _by_two_tower(candidates, users, group)
    batch, missing = _ranker_batch(candidates, users, group, ranker)
    scores = await _scores(ranker, batch, engines, breaker, statistics, candidates.encoded.model.variant)
    if scores is None:
        return _by_two_tower(candidates, [user.with_reason(Degraded.RANKER_FAILED) for user in users], group)
    scores[missing] = -np.inf
    parts = [(names.SOURCE_TWO_TOWER, batch.collaborative), (CONTENT, _known(batch.content, batch.unknown))]
    for name, part in ((ITEM_ITEM, batch.item_item), (SEQUENTIAL, batch.sequential)):
        if part is not None:
            parts.append((name, _known(part, batch.unknown)))
    return Ranked(
        model=candidates.encoded.model,
        users=users,
        source=Source.RANKED,
        rows=candidates.rows[group],
        scores=scores,
        columns=candidates.columns,
        parts=(*parts, *ranker.parts(scores)),
    )


def _ranker_batch(
    candidates: Candidates, users: Sequence[User], group: _Group, ranker: Ranker
) -> tuple[RankerBatch, npt.NDArray[np.bool_]]:
    """The ranker's input, and the cells without a candidate: (users, candidates) bool."""
    encoded = candidates.encoded
    model, history_rows = encoded.model, encoded.history_rows[group]
    collaborative = candidates.collaborative[group]
    missing = np.isneginf(collaborative)
    rows = np.maximum(candidates.rows[group], 0)
    unknown = _unknown(candidates, rows, missing)
    # Scores of all sources but the two towers exist for the rows of the bundle alone.
    bundle_rows = rows if unknown is None else np.where(unknown.cells, 0, rows)
    spec = model.bundle.manifest.blend
    content = np.zeros(rows.shape, dtype=np.float32)
    if CONTENT in ranker.reads and model.content is not None:
        content = model.content.score(history_rows, bundle_rows)
        if unknown is not None and spec is not None and spec.content is not None:
            content[unknown.cells] = spec.content.mean
    linear = {name: encoded.linear.of_rows(name, group, bundle_rows) for name in model.linear if name in ranker.reads}
    if unknown is not None:
        for name, linear_scores in linear.items():
            linear_scores[unknown.cells] = model.linear[name].spec.calibration.mean
    user_index = None
    if USER_INDEX in ranker.reads:
        user_index = model.user_index([user.admitted.query.user_id for user in users])
    batch = RankerBatch(
        user_vectors=encoded.vectors[group],
        user_index=user_index,
        rows=rows,
        collaborative=np.where(missing, np.float32(0.0), collaborative),
        content=content,
        item_item=linear.get(ITEM_ITEM),
        sequential=linear.get(SEQUENTIAL),
        catalogue=model.catalogue,
        unknown=unknown,
    )
    return batch, missing


def _unknown(
    candidates: Candidates, rows: npt.NDArray[np.int64], missing: npt.NDArray[np.bool_]
) -> UnknownParts | None:
    """The candidates that the bundle does not hold; None where it holds all. `rows` is (users, candidates) int64."""
    live = candidates.encoded.model.live
    if not len(live.slots):
        return None
    cells = rows >= live.num_bundle_items
    if not cells.any():
        return None
    # The other sources choose by content or item-item scores, so their candidates are not comparable.
    by_towers = np.arange(rows.shape[1]) < candidates.columns[0].stop
    return UnknownParts(cells, ~missing & ~cells & by_towers)


def _known(scores: Scores, unknown: UnknownParts | None) -> Scores:
    """The scores, NaN where they are unknown."""
    return scores if unknown is None else np.where(unknown.cells, np.float32(np.nan), scores)


async def _scores(  # noqa: PLR0917 - as above
    ranker: Ranker, batch: RankerBatch, engines: EngineCalls, breaker: Breaker, statistics: Statistics, variant: str
) -> Scores | None:
    """The ranker's scores; None where it fails, or where one that runs long is not called because it failed lately."""
    if ranker.runs_long and not breaker.allows():
        return None
    try:
        scores = (await engines.call(RANK, ranker.score, batch))[0] if ranker.runs_long else ranker.score(batch)
        usable, is_finite = _usable(scores, batch)
    except Exception as error:  # a ranker raises what it likes; each means that it cannot rank this batch
        _log.warning("ranker_failed", ranker=ranker.name, reason=repr(error))
        usable, is_finite = None, True
    if not is_finite:
        statistics.ranker_not_finite[variant] += 1
    if ranker.runs_long:
        if usable is None:
            breaker.failed()
        else:
            breaker.succeeded()
    return usable


def _usable(scores: Scores, batch: RankerBatch) -> tuple[Scores | None, bool]:
    """The scores, writable, or None where they are not finite; and whether they are. Raises ValueError for another
    shape or type."""
    if scores.shape != batch.rows.shape or scores.dtype != np.float32:
        raise ValueError(f"scores are {scores.dtype} of shape {scores.shape}, not float32 of {batch.rows.shape}")
    if not np.isfinite(scores).all():
        return None, False
    return scores if scores.flags.writeable else scores.copy(), True


def _by_two_tower(candidates: Candidates, users: Sequence[User], group: _Group) -> Ranked:
    collaborative = candidates.collaborative[group]
    return Ranked(
        model=candidates.encoded.model,
        users=users,
        source=Source.RETRIEVED,
        rows=candidates.rows[group],
        scores=collaborative,
        columns=candidates.columns,
        parts=((names.SOURCE_TWO_TOWER, collaborative),),
    )
