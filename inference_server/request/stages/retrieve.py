"""Retrieval: candidates from every source that the policy enables, filtered, and merged into one table by source.

The two towers' search applies the filter itself; the proposals of the other sources are filtered here. An item that
several sources propose belongs to the first of them.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Final

import numpy as np
import structlog

from inference_server.core.degradation import Degraded
from inference_server.model.catalogue.bitmap import rows_in
from inference_server.model.engine.search import Allowed, Found
from inference_server.request.flow.engine_calls import EngineCalls
from inference_server.request.flow.ladder import RETRIEVE, SOURCES, Rung
from inference_server.request.flow.stage_clock import stage
from inference_server.request.flow.types import Candidates, Columns, Encoded, User
from inference_server.request.sources import two_tower
from inference_server.request.sources.source import Source
from tandem.contract.vocabulary import MISSING_ROW, Rows

_log = structlog.get_logger()

_MAX_COMPARED_ROWS: Final = 2_000
"""Excluded rows up to which each is compared with each candidate; a longer list is sorted first."""


@stage(RETRIEVE)
async def retrieve(
    encoded: Encoded, allowed: Sequence[Allowed], sources: Sequence[Source], engines: EngineCalls
) -> Candidates:
    """Candidates of the two towers and of `sources`; at least `num_items`, if that many pass the filter."""
    found = await two_tower.search_two_tower(encoded, allowed, engines)
    started = time.perf_counter()
    users, proposals = _proposals(encoded, sources)
    if not proposals:
        return Candidates(
            encoded=encoded,
            rows=found.rows,
            collaborative=found.scores,
            columns=(Columns(two_tower.NAME, 0, found.rows.shape[1]),),
            users=users,
        )
    merged = _merge(encoded, allowed, found, proposals, users)
    engines.ladder.observe(SOURCES, time.perf_counter() - started)
    return merged


def _proposals(encoded: Encoded, sources: Sequence[Source]) -> tuple[Sequence[User], list[tuple[str, Rows]]]:
    """The users, with a degraded reason for each source that is missing, and the proposals: each source's name with
    (users, n) int64, MISSING_ROW where the source proposes nothing."""
    users = encoded.users
    available = [(source, _wanted(users, source)) for source in sources if source.available(encoded.model)]
    if users[0].rung >= Rung.NO_EXTRA_SOURCES:
        skipped = [sum(counts) for counts in zip(*(wanted for _, wanted in available), strict=True)]
        return _with_reason(users, Degraded.SOURCES_SKIPPED, skipped) if any(skipped) else users, []
    proposals = []
    for source, wanted in available:
        if not any(wanted):
            continue
        rows = _proposal(source, encoded, max(wanted))
        if isinstance(rows, Degraded):
            users = _with_reason(users, rows, wanted)
            continue
        for user_rows, num_candidates in zip(rows, wanted, strict=True):
            # A user gets the number that the user's own policy takes, whatever other users of the batch get.
            user_rows[num_candidates:] = MISSING_ROW
        proposals.append((source.name, rows))
    return users, proposals


def _proposal(source: Source, encoded: Encoded, num_candidates: int) -> Rows | Degraded:
    """The rows that a source proposes, ours to overwrite; SOURCE_FAILED where it raises, or proposes what is none."""
    try:
        proposed = source.propose(encoded, num_candidates)
        return proposed if isinstance(proposed, Degraded) else _checked_rows(proposed, encoded)
    except Exception as error:  # a source raises what it likes: the request has candidates without it
        _log.warning("source_failed", source=source.name, reason=repr(error))
        return Degraded.SOURCE_FAILED


def _checked_rows(proposed: Rows, encoded: Encoded) -> Rows:
    """A copy as int64. Raises ValueError unless it is (users, n), of integers, each MISSING_ROW or a catalogue row."""
    if proposed.ndim != 2 or len(proposed) != len(encoded.users) or proposed.dtype.kind not in "iu":
        raise ValueError(f"{proposed.dtype} of shape {proposed.shape} is not (users, n) of {len(encoded.users)} users")
    rows = proposed.astype(np.int64)
    if rows.size and not MISSING_ROW <= int(rows.min()) <= int(rows.max()) < encoded.model.catalogue.num_items:
        raise ValueError(f"rows {rows.min()} to {rows.max()} are not all rows of the catalogue")
    return rows


def _wanted(users: Sequence[User], source: Source) -> list[int]:
    """Candidates that each user's policy takes from a source."""
    return [user.admitted.policy.sources.get(source.name, source.num_candidates) for user in users]


def _with_reason(users: Sequence[User], reason: Degraded, wanted: Sequence[int]) -> list[User]:
    """The users, with the reason added to those who want any candidates."""
    return [user.with_reason(reason) if count else user for user, count in zip(users, wanted, strict=True)]


def _merge(
    encoded: Encoded,
    allowed: Sequence[Allowed],
    found: Found,
    proposals: Sequence[tuple[str, Rows]],
    users: Sequence[User],
) -> Candidates:
    """One table: the columns of the two towers, then those of each proposal, without repeats or forbidden items."""
    columns = [Columns(two_tower.NAME, 0, found.rows.shape[1])]
    for source, rows in proposals:
        columns.append(Columns(source, columns[-1].stop, columns[-1].stop + rows.shape[1]))
    new = proposals[0][1] if len(proposals) == 1 else np.concatenate([rows for _, rows in proposals], axis=1)
    if new.shape[1] > 1:
        # Equal rows lie side by side once sorted, in the order of their columns: all but the first of them are dropped.
        each_user = np.arange(len(new))[:, None]
        order = np.argsort(new, axis=1, kind="stable")
        in_order = new[each_user, order]
        in_order[:, 1:][in_order[:, 1:] == in_order[:, :-1]] = MISSING_ROW
        new[each_user, order] = in_order
    if found.remaining_scores is not None:
        scores = found.remaining_scores[np.arange(len(new))[:, None], new]
    else:
        new[(new[:, :, None] == found.rows[:, None, :]).any(axis=2)] = MISSING_ROW
        alive = encoded.model.catalogue.alive
        if alive is not None:
            new[~rows_in(alive, np.maximum(new, 0))] = MISSING_ROW
        for user_rows, user_allowed in zip(new, allowed, strict=True):
            _drop_forbidden(user_rows, user_allowed)
        vectors = encoded.model.catalogue.vectors[np.maximum(new, 0)]  # (users, new, dim)
        scores = np.matmul(vectors, encoded.vectors[:, :, None])[:, :, 0]
    scores[new == MISSING_ROW] = -np.inf
    return Candidates(
        encoded=encoded,
        rows=np.concatenate([found.rows, new], axis=1),
        collaborative=np.concatenate([found.scores, scores], axis=1),
        columns=columns,
        users=users,
    )


def _drop_forbidden(rows: Rows, allowed: Allowed) -> None:
    """Overwrites rows that may not be shown with MISSING_ROW."""
    if allowed.mask is not None:
        rows[~rows_in(allowed.mask.bitmap, np.maximum(rows, 0))] = MISSING_ROW
    excluded = allowed.excluded
    if len(excluded) > _MAX_COMPARED_ROWS:
        rows[np.isin(rows, excluded)] = MISSING_ROW
    elif len(excluded):
        rows[(rows[:, None] == excluded).any(axis=1)] = MISSING_ROW
