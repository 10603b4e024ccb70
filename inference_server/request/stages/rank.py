"""Ranking: the ranker that the policy and the bundle agree on orders the candidates of a batch."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import Executor
from dataclasses import replace
from itertools import groupby

import numpy as np
import numpy.typing as npt
import structlog

from inference_server.core.breaker import Breaker
from inference_server.core.degradation import Degraded, Source
from inference_server.model.engine.ranker import BlendRanker, OnnxRanker, Pairs, UnknownParts
from inference_server.model.serving_model import ServingModel
from inference_server.policy.policy import Policy
from inference_server.request.flow.engine_calls import call_engine
from inference_server.request.flow.ladder import Ladder, Rung
from inference_server.request.flow.types import Candidates, Ranked, User
from tandem.contract import names
from tandem.contract.item_item import item_item_scores

_log = structlog.get_logger()

_Scores = npt.NDArray[np.float32]
_Run = Callable[[OnnxRanker, Pairs], Awaitable[_Scores]]

_RANKER = "ranker"
_CONTENT = "content"


async def rank(candidates: Candidates, threads: Executor, ladder: Ladder, breaker: Breaker) -> Sequence[Ranked]:
    """Scores the candidates. Users of one batch whose policies take different rankers are told apart; mostly it is one.

    Without a ranker, and where it fails, the two-tower score orders.
    """
    model = candidates.encoded.model
    users = candidates.users
    rankers = [ranker_of(user.admitted.policy, model) for user in users]
    if candidates.users[0].rung >= Rung.NO_RANKER:
        skipped = [
            user if ranker is None else _with_reason(user, Degraded.RANKER_SKIPPED)
            for user, ranker in zip(users, rankers, strict=True)
        ]
        return [_by_two_tower(candidates, skipped, slice(None))]
    started = time.perf_counter()

    async def run(ranker: OnnxRanker, pairs: Pairs) -> _Scores:
        scores, _ = await call_engine(threads, ladder.rank_seconds, ranker.score, pairs)
        return scores

    if all(ranker is rankers[0] for ranker in rankers):
        ranked = [await _rank_part(candidates, users, slice(None), rankers[0], run, breaker)]
    else:
        order = sorted(range(len(users)), key=lambda place: id(rankers[place]))
        ranked = []
        for _, places in groupby(order, key=lambda place: id(rankers[place])):
            part = list(places)
            own = [users[place] for place in part]
            ranked.append(await _rank_part(candidates, own, part, rankers[part[0]], run, breaker))
    ladder.observe(rank=time.perf_counter() - started)
    return ranked


def ranker_of(policy: Policy, model: ServingModel) -> BlendRanker | OnnxRanker | None:
    """The ranker that a policy takes; None where it takes none, or the bundle has not the one that it asks for."""
    if policy.ranker == "none":
        return None
    if policy.ranker in {"auto", "onnx"} and model.onnx_ranker is not None:
        return model.onnx_ranker
    if policy.ranker in {"auto", "blend"} and model.blend is not None:
        return model.blend if policy.content_weight is None else model.blend.with_content_weight(policy.content_weight)
    return None


async def _rank_part(  # noqa: PLR0917 - what a ranker needs, and where it runs
    candidates: Candidates,
    users: Sequence[User],
    part: slice | list[int],
    ranker: BlendRanker | OnnxRanker | None,
    run: _Run,
    breaker: Breaker,
) -> Ranked:
    if ranker is None:
        return _by_two_tower(candidates, users, part)
    pairs, missing = _pairs(candidates, users, part, ranker)
    scores = await _scores(ranker, pairs, run, breaker)
    if scores is None:
        failed = [_with_reason(user, Degraded.RANKER_FAILED) for user in users]
        return _by_two_tower(candidates, failed, part)
    scores[missing] = -np.inf
    parts = [(names.SOURCE_TWO_TOWER, pairs.collaborative), (_CONTENT, _known(pairs.content, pairs.unknown))]
    if pairs.item_item is not None:
        parts.append((names.SOURCE_ITEM_ITEM, _known(pairs.item_item, pairs.unknown)))
    if isinstance(ranker, OnnxRanker):
        parts.append((_RANKER, scores))
    return Ranked(
        model=candidates.encoded.model,
        users=users,
        source=Source.RANKED,
        rows=candidates.rows[part],
        scores=scores,
        columns=candidates.columns,
        parts=tuple(parts),
    )


def _pairs(
    candidates: Candidates, users: Sequence[User], part: slice | list[int], ranker: BlendRanker | OnnxRanker
) -> tuple[Pairs, npt.NDArray[np.bool_]]:
    """What a ranker reads, and the cells without a candidate: (users, candidates) bool."""
    encoded = candidates.encoded
    model, history_rows = encoded.model, encoded.history_rows[part]
    collaborative = candidates.collaborative[part]
    missing = np.isneginf(collaborative)
    rows = np.maximum(candidates.rows[part], 0)
    unknown = _unknown(candidates, rows, missing)
    # Content and item-item scores are the bundle's own, and it has no more rows than its items.
    bundle_rows = rows if unknown is None else np.where(unknown.places, 0, rows)
    spec = model.bundle.manifest.blend
    content = np.zeros(rows.shape, dtype=np.float32)
    if model.content is not None and (isinstance(ranker, OnnxRanker) or ranker.reads_content):
        content = model.content.score(history_rows, bundle_rows)
        if unknown is not None and spec is not None and spec.content is not None:
            content[unknown.places] = spec.content.mean
    item_item = None
    if isinstance(ranker, BlendRanker) and ranker.decay_events is not None and model.item_item is not None:
        item_item = item_item_scores(model.item_item, history_rows, ranker.decay_events, bundle_rows)
        if unknown is not None and spec is not None and spec.item_item is not None:
            item_item[unknown.places] = spec.item_item.calibration.mean
    pairs = Pairs(
        user_vectors=encoded.vectors[part],
        user_index=model.user_index([user.admitted.query.user_id for user in users])
        if isinstance(ranker, OnnxRanker)
        else None,
        rows=rows,
        collaborative=np.where(missing, np.float32(0.0), collaborative),
        content=content,
        item_item=item_item,
        catalogue=model.catalogue,
        unknown=unknown,
    )
    return pairs, missing


def _unknown(
    candidates: Candidates, rows: npt.NDArray[np.int64], missing: npt.NDArray[np.bool_]
) -> UnknownParts | None:
    """Candidates, (users, candidates) int64, that came after the bundle; None where there are none."""
    live = candidates.encoded.model.live
    if not len(live.slots):
        return None
    places = rows >= live.num_bundle_items
    if not places.any():
        return None
    # Other sources choose by what is unknown here, and say nothing of items that were not chosen so.
    by_towers = np.arange(rows.shape[1]) < candidates.columns[0].stop
    return UnknownParts(places, ~missing & ~places & by_towers)


def _known(scores: _Scores, unknown: UnknownParts | None) -> _Scores:
    """NaN where nothing is known."""
    return scores if unknown is None else np.where(unknown.places, np.float32(np.nan), scores)


async def _scores(
    ranker: BlendRanker | OnnxRanker, pairs: Pairs, run: _Run, breaker: Breaker
) -> npt.NDArray[np.float32] | None:
    """None where the ranker failed, or is not asked because it has failed lately."""
    if isinstance(ranker, BlendRanker):
        return ranker.score(pairs)
    if not breaker.allows():
        return None
    try:
        scores = await run(ranker, pairs)
    except Exception as error:  # ONNX Runtime raises many kinds; each means that this model cannot rank this batch
        _log.warning("ranker_failed", reason=repr(error))
        breaker.failed()
        return None
    if not np.isfinite(scores).all():
        breaker.failed()
        return None
    breaker.succeeded()
    return scores


def _by_two_tower(candidates: Candidates, users: Sequence[User], part: slice | list[int]) -> Ranked:
    collaborative = candidates.collaborative[part]
    return Ranked(
        model=candidates.encoded.model,
        users=users,
        source=Source.RETRIEVED,
        rows=candidates.rows[part],
        scores=collaborative,
        columns=candidates.columns,
        parts=((names.SOURCE_TWO_TOWER, collaborative),),
    )


def _with_reason(user: User, reason: Degraded) -> User:
    return replace(user, degraded_reasons=(*user.degraded_reasons, reason))
