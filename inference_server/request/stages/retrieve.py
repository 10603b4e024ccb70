"""Retrieval: candidates from every source that the policy names, filtered inside the search, merged with the source
kept.

An item that several sources propose belongs to the first of them.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import replace
from typing import Final

import numpy as np
import numpy.typing as npt

from inference_server.core.degradation import Degraded
from inference_server.model.catalogue.bitmap import rows_in
from inference_server.model.engine.search import Allowed, Found
from inference_server.model.serving_model import ServingModel
from inference_server.policy.policy import Sources
from inference_server.request.flow.engine_calls import call_engine
from inference_server.request.flow.ladder import Ladder, Rung
from inference_server.request.flow.types import Candidates, Columns, Encoded, User
from inference_server.request.sources.trending import TrendingList
from tandem.contract import names
from tandem.contract.candidates import CONTENT_NEIGHBOURS_OF, ITEM_ITEM_NEIGHBOURS_OF, neighbour_rows
from tandem.contract.vocabulary import MISSING_ROW

_FEW: Final = 2_000
"""Excluded rows up to which each is compared with each candidate; more of them are sorted first."""


async def retrieve(
    encoded: Encoded, allowed: Sequence[Allowed], trending: TrendingList, threads: Executor, ladder: Ladder
) -> Candidates:
    """As many candidates as were asked for, whenever the filter leaves that many, and as the policies take."""
    wanted = [max(user.admitted.num_items, user.admitted.policy.sources.two_tower) for user in encoded.users]
    most = max(wanted)
    search = encoded.model.search
    found, seconds = await call_engine(
        threads, ladder.retrieve_seconds, search.nearest, encoded.vectors, most, list(allowed)
    )
    searched = time.perf_counter()
    ladder.observe(retrieve=seconds)
    if min(wanted) < most:
        _trim(found, wanted)
    users, extra = _extra_sources(encoded, trending)
    if not extra:
        columns = (Columns(names.SOURCE_TWO_TOWER, 0, found.rows.shape[1]),)
        return Candidates(
            encoded=encoded,
            allowed=allowed,
            rows=found.rows,
            collaborative=found.scores,
            columns=columns,
            users=users,
        )
    merged = _merge(encoded, allowed, found, extra, users)
    ladder.observe(sources=time.perf_counter() - searched)
    return merged


def _extra_sources(
    encoded: Encoded, trending: TrendingList
) -> tuple[Sequence[User], list[tuple[str, npt.NDArray[np.int64]]]]:
    """What the sources beside the two towers propose: (users, n) int64 each, MISSING_ROW where there is nothing."""
    users, model = encoded.users, encoded.model
    wanted = [user.admitted.policy.sources for user in users]
    if users[0].rung >= Rung.NO_EXTRA_SOURCES:
        skipped = [
            replace(user, degraded_reasons=(*user.degraded_reasons, Degraded.SOURCES_SKIPPED))
            if _names_extra(of_user, model)
            else user
            for user, of_user in zip(users, wanted, strict=True)
        ]
        return skipped, []
    extra = []
    if model.item_item is not None and (most := max(of_user.item_item for of_user in wanted)):
        # The first ones are a user's share, whatever others of the batch take.
        proposed = neighbour_rows(model.item_item.rows, encoded.history_rows, most, num_events=ITEM_ITEM_NEIGHBOURS_OF)
        extra.append((names.SOURCE_ITEM_ITEM, proposed))
    if model.content is not None and (most := max(of_user.content_neighbours for of_user in wanted)):
        proposed = neighbour_rows(
            model.content.neighbours, encoded.history_rows, most, num_events=CONTENT_NEIGHBOURS_OF
        )
        extra.append((names.SOURCE_CONTENT_NEIGHBOURS, proposed))
    if most := max(of_user.trending for of_user in wanted):
        rows = trending.rows(model)
        if rows is None:
            users = [
                replace(user, degraded_reasons=(*user.degraded_reasons, Degraded.TRENDING_UNAVAILABLE))
                if of_user.trending
                else user
                for user, of_user in zip(users, wanted, strict=True)
            ]
        else:
            extra.append((names.SOURCE_TRENDING, np.tile(rows[:most], (len(users), 1))))
    if most := max(of_user.popular for of_user in wanted):
        extra.append((names.SOURCE_POPULAR, np.tile(model.catalogue.top_rows(most), (len(users), 1))))
    for source, rows in extra:
        for place, of_user in enumerate(wanted):
            rows[place, getattr(of_user, source) :] = MISSING_ROW
    return users, extra


def _names_extra(sources: Sources, model: ServingModel) -> bool:
    has_content = sources.content_neighbours and model.content is not None
    has_item_item = sources.item_item and model.item_item is not None
    return bool(has_content or has_item_item or sources.trending or sources.popular)


def _trim(found: Found, wanted: Sequence[int]) -> None:
    """Drops what was found for others of the batch alone: nobody's answer depends on the company it was made in."""
    for place, num_items in enumerate(wanted):
        rows, scores = found.rows[place, num_items:], found.scores[place, num_items:]
        if found.others is not None:
            held = rows != MISSING_ROW
            found.others[place, rows[held]] = scores[held]
        rows[:] = MISSING_ROW
        scores[:] = -np.inf


def _merge(
    encoded: Encoded,
    allowed: Sequence[Allowed],
    found: Found,
    extra: list[tuple[str, npt.NDArray[np.int64]]],
    users: Sequence[User],
) -> Candidates:
    columns = [Columns(names.SOURCE_TWO_TOWER, 0, found.rows.shape[1])]
    for source, of_source in extra:
        columns.append(Columns(source, columns[-1].stop, columns[-1].stop + of_source.shape[1]))
    new = extra[0][1] if len(extra) == 1 else np.concatenate([of_source for _, of_source in extra], axis=1)
    if new.shape[1] > 1:
        # Equal rows lie side by side once sorted, in the order of their columns: all but the first of them are dropped.
        each = np.arange(len(new))[:, None]
        order = np.argsort(new, axis=1, kind="stable")
        in_order = new[each, order]
        in_order[:, 1:][in_order[:, 1:] == in_order[:, :-1]] = MISSING_ROW
        new[each, order] = in_order
    if found.others is not None:
        scores = found.others[np.arange(len(new))[:, None], new]
    else:
        new[(new[:, :, None] == found.rows[:, None, :]).any(axis=2)] = MISSING_ROW
        alive = encoded.model.catalogue.alive
        if alive is not None:
            new[~rows_in(alive, np.maximum(new, 0))] = MISSING_ROW
        for of_user, one in zip(new, allowed, strict=True):
            _drop_forbidden(of_user, one)
        vectors = encoded.model.catalogue.vectors[np.maximum(new, 0)]  # (users, new, dim)
        scores = np.matmul(vectors, encoded.vectors[:, :, None])[:, :, 0]
    scores[new == MISSING_ROW] = -np.inf
    return Candidates(
        encoded=encoded,
        allowed=allowed,
        rows=np.concatenate([found.rows, new], axis=1),
        collaborative=np.concatenate([found.scores, scores], axis=1),
        columns=columns,
        users=users,
    )


def _drop_forbidden(rows: npt.NDArray[np.int64], allowed: Allowed) -> None:
    """Overwrites rows that may not be shown with MISSING_ROW."""
    if allowed.mask is not None:
        rows[~rows_in(allowed.mask.bitmap, np.maximum(rows, 0))] = MISSING_ROW
    excluded = allowed.excluded
    if len(excluded) > _FEW:
        rows[np.isin(rows, excluded)] = MISSING_ROW
    elif len(excluded):
        rows[(rows[:, None] == excluded).any(axis=1)] = MISSING_ROW
