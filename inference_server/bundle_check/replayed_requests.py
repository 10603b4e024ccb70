"""Logged requests answered anew: the order in which a bundle and a policy would have chosen from each request's pool.

The stages of the request path itself make the pools, from admission to selection; the states of the users are those of
the time of the request, in memory. What no log holds is left out: the filter of the request, its recent items, trending
items, and live items that came after the bundle.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from inference_server.bundle_check.held_out_users import StatesInMemory
from inference_server.core.breaker import Breaker
from inference_server.core.errors import SettingsError, UnknownScenario
from inference_server.core.query import Query
from inference_server.model.serving_model import ModelSlot, ServingModel, open_model
from inference_server.policy.policy import Policy
from inference_server.policy.policy_file import PolicyFile
from inference_server.request.admission import Admission
from inference_server.request.flow.engine_calls import EngineCalls
from inference_server.request.flow.ladder import Ladder
from inference_server.request.flow.recent_lists import RecentLists
from inference_server.request.pipeline import Pipeline
from inference_server.request.policy_choices import policy_choices
from inference_server.request.sources.registry import SOURCES
from inference_server.telemetry.statistics import Statistics
from tandem.contract.held_out_users import HeldOutUser
from tandem.contract.replayed import LoggedRequest, ReplayedOrders, read_requests, write_orders
from tandem.contract.vocabulary import NO_ROWS, Rows

_AT_ONCE: Final = 32
_MAX_SECONDS: Final = 600.0
"""Long enough that a busy machine degrades no answer."""
_THREADS: Final = 2


def run_replay(directory: Path, *, requests: Path, policies_file: Path | None, scenario: str, output: Path) -> str:
    """Answers the requests of a file and writes their orders; returns a line for people.

    Raises SettingsError for a scenario that the policies do not have, PoliciesInvalid, BundleError, ReplayError and
    OSError.
    """
    import uvloop

    policies = PolicyFile(policies_file, policy_choices())
    try:
        policy = policies.current.policy(scenario)
    except UnknownScenario as error:
        raise SettingsError(f"--scenario {scenario}: {error}") from error
    asked = read_requests(requests)
    model = open_model(directory)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        pools = runner.run(_pools(model, asked, policies, scenario, whole=policy.exploration > 0.0))
    orders = _orders(model, pools, policy, policies.current.fingerprint)
    write_orders(output, orders)
    return f"{len(asked)} requests answered anew by {model.version}, {np.count_nonzero(orders.degraded)} degraded"


@dataclass(frozen=True)
class _Pool:
    """What one request was, or might be, shown."""

    rows: Rows
    """(n,) int64, best first before exploration."""
    is_degraded: bool


async def _pools(
    model: ServingModel, requests: Sequence[LoggedRequest], policies: PolicyFile, scenario: str, *, whole: bool
) -> list[_Pool]:
    """Pools in the order of the requests; not `whole`: only what is shown of them."""
    slot = ModelSlot()
    slot.current = model
    admission = Admission(slot, policies, max_concurrent_requests=_AT_ONCE, max_seconds=_MAX_SECONDS)
    pools: dict[int, _Pool] = {}
    with ThreadPoolExecutor(_THREADS, thread_name_prefix="engine") as threads:
        engines = EngineCalls(threads, Ladder())
        for indices in _batches(requests):
            batch = [requests[index] for index in indices]
            # Only the states of this batch: a user has another one at another time.
            store = StatesInMemory([HeldOutUser(request.user_id, request.state, "") for request in batch])
            pipeline = Pipeline(
                store=store,
                sources=[source(store) for source in SOURCES],
                engines=engines,
                ranker_breaker=Breaker("ranker"),
                recent_lists=RecentLists(),
                statistics=Statistics(),
                with_sources=False,
            )
            index_of: dict[str, int] = {}
            admitted = []
            for index, request in zip(indices, batch, strict=True):
                query = Query(
                    user_id=request.user_id, num_items=request.num_items, context=request.context, scenario=scenario
                )
                admitted.append(admission.admit(query, None))
                index_of[admitted[-1].request_id] = index
            async for answers in pipeline.answers(admitted):
                for answered in answers:
                    rows = answered.chosen.pool_rows if whole else answered.chosen.rows
                    reasons = answered.answer.degraded_reasons
                    # A copy: the rows are a part of the batch's table, which is larger.
                    pools[index_of[answered.answer.request_id]] = _Pool(rows.copy(), bool(reasons))
            for _ in admitted:
                admission.release()
    return [pools[index] for index in range(len(requests))]


def _batches(requests: Sequence[LoggedRequest]) -> Iterator[list[int]]:
    """Indices of requests, in batches that have no user twice."""
    waiting: dict[str, list[int]] = {}
    for index, request in enumerate(requests):
        waiting.setdefault(request.user_id, []).append(index)
    by_turn: dict[int, list[int]] = {}
    for indices in waiting.values():
        for turn, index in enumerate(indices):
            by_turn.setdefault(turn, []).append(index)
    for indices in by_turn.values():
        for start in range(0, len(indices), _AT_ONCE):
            yield indices[start : start + _AT_ONCE]


def _orders(model: ServingModel, pools: Sequence[_Pool], policy: Policy, fingerprint: str) -> ReplayedOrders:
    rows, items = np.unique(np.concatenate([NO_ROWS, *(pool.rows for pool in pools)]), return_inverse=True)
    return ReplayedOrders(
        model_version=model.version,
        policy_fingerprint=fingerprint,
        exploration=policy.exploration,
        item_ids=model.catalogue.item_ids(rows),
        offsets=np.concatenate([[0], np.cumsum([len(pool.rows) for pool in pools], dtype=np.int64)]),
        items=items,
        degraded=np.array([pool.is_degraded for pool in pools], dtype=np.bool_),
    )
