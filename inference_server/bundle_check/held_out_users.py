"""A bundle evaluated as it is served: held-out users ask the request path itself, from admission to the answer.

Only the surroundings of the path are left out: the wire, and the online store, which is replaced by states in memory.
Two bundles are asked in turns, a few users at a time, so that a busy machine slows both equally.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from itertools import islice
from typing import Final

import numpy as np
import numpy.typing as npt

from inference_server.bundle_check.report import CheckReport
from inference_server.core.answers import Answer
from inference_server.core.query import Query
from inference_server.model.serving_model import ModelSlot, ServingModel
from inference_server.policy.policy_file import PolicyFile
from inference_server.request.admission import Admission
from inference_server.request.recommender import Recommender
from inference_server.store.user_store import Values
from inference_server.telemetry.statistics import Statistics
from tandem.contract.held_out_users import HeldOutUser
from tandem.contract.served import NOT_SHOWN, ServedBundle
from tandem.contract.store import TrendingItems, UserState, trending_key, user_state_key
from tandem.contract.vocabulary import MISSING_ROW, Rows

MIN_REQUESTS: Final = 1_000
"""Least number of timed answers of each bundle, which the 99th percentile needs: if there are fewer users, they are
asked again."""
_AT_ONCE: Final = 8
"""Requests in flight: enough for micro-batches, few enough that a request does not mostly wait."""
_TURN_USERS: Final = 64
"""Users that one bundle answers before it is the other bundle's turn."""
_WARM_UP_REQUESTS: Final = 64
_MAX_SECONDS: Final = 60.0
"""Deadline of a request, long enough that a busy machine degrades no answer: an answer is degraded here only if the
bundle cannot do better. Slowness shows in the latencies."""
_THREADS: Final = 2
_TIMED_PARTS: Final = 5
"""The run is divided into this many parts, and a percentile is the median of the parts' percentiles, so that one pause
of the machine does not decide it."""
_PERCENTILES: Final = (50, 90, 99)


class StatesInMemory:
    """Replaces the online store behind `ReadsStore`: it holds the held-out users' states, no vectors, and no trending
    items."""

    def __init__(self, users: Sequence[HeldOutUser]) -> None:
        self._values = {user_state_key(user.user_id): user.state.to_bytes() for user in users}
        nothing = TrendingItems(np.empty(0, np.uint64), np.empty(0, np.float32))
        self._values[trending_key()] = nothing.to_bytes()

    def read(self, keys: Sequence[bytes], patience_seconds: float) -> asyncio.Task[Values]:  # noqa: ARG002
        """See `ReadsStore.read`."""
        return asyncio.create_task(self._read(keys))

    absence = None
    """See `ReadsStore.absence`."""

    async def _read(self, keys: Sequence[bytes]) -> Values:
        return [self._values.get(key) for key in keys]


@dataclass(kw_only=True)
class _Asked:
    """One bundle with its request path, and its answers so far."""

    model: ServingModel
    recommender: Recommender
    answers: list[Answer] = field(default_factory=list)
    """The first answer to each user, in the order of the users."""
    seconds: list[float] = field(default_factory=list)


async def ask_held_out_users(
    models: Sequence[ServingModel], users: Sequence[HeldOutUser], *, num_shown: int, policies: PolicyFile
) -> list[ServedBundle]:
    """Asks each bundle for `num_shown` items for every user, and measures the answers.

    Golden queries are not asked here: `exact_overlap` and `recall_at_100` are None. Raises ValueError without users.
    """
    if not users:
        raise ValueError("there is no held-out user")
    store = StatesInMemory(users)
    async with AsyncExitStack() as stack:
        threads = stack.enter_context(ThreadPoolExecutor(_THREADS, thread_name_prefix="engine"))
        asked = []
        for model in models:
            recommender = _recommender(model, store, policies, threads)
            await recommender.start()
            stack.push_async_callback(recommender.close)
            asked.append(_Asked(model=model, recommender=recommender))
        for bundle in asked:
            await _ask(bundle.recommender, [users[n % len(users)] for n in range(_WARM_UP_REQUESTS)], num_shown)
        turns = [users[start : start + _TURN_USERS] for start in range(0, len(users), _TURN_USERS)]
        while len(asked[0].seconds) < MIN_REQUESTS:
            for turn in turns:
                for bundle in asked:
                    answers, seconds = await _ask(bundle.recommender, turn, num_shown)
                    bundle.answers += islice(
                        answers, len(users) - len(bundle.answers)
                    )  # only the first answer to each user counts
                    bundle.seconds += seconds
    return [_measured(bundle, users, num_shown) for bundle in asked]


def with_golden_queries(served: ServedBundle, report: CheckReport) -> ServedBundle:
    """`served` with the figures that the check found with the bundle's golden queries."""
    return ServedBundle(
        **{**vars(served), "exact_overlap": report.exact_overlap, "recall_at_100": report.recall_at_nprobe}
    )


def _recommender(
    model: ServingModel, store: StatesInMemory, policies: PolicyFile, threads: ThreadPoolExecutor
) -> Recommender:
    slot = ModelSlot()
    slot.current = model
    admission = Admission(slot, policies, max_concurrent_requests=_AT_ONCE, max_seconds=_MAX_SECONDS)
    return Recommender(admission=admission, store=store, threads=threads, statistics=Statistics())


async def _ask(
    recommender: Recommender, users: Sequence[HeldOutUser], num_shown: int
) -> tuple[list[Answer], list[float]]:
    """The answers and their latencies in seconds, in the order of the users."""
    answered: dict[int, tuple[Answer, float]] = {}

    async def ask_some(first: int) -> None:
        for index in range(first, len(users), _AT_ONCE):
            started = time.perf_counter()
            answer = await recommender.recommend(Query(user_id=users[index].user_id, num_items=num_shown), None)
            answered[index] = answer, time.perf_counter() - started

    await asyncio.gather(*map(ask_some, range(_AT_ONCE)))
    in_order = [answered[index] for index in range(len(users))]
    return [answer for answer, _ in in_order], [seconds for _, seconds in in_order]


def _measured(asked: _Asked, users: Sequence[HeldOutUser], num_shown: int) -> ServedBundle:
    model, answers = asked.model, asked.answers
    shown = [model.bundle.item_vocabulary.rows(answer.item_ids) for answer in answers]
    all_shown = np.concatenate(shown)
    times_chosen = np.maximum(model.catalogue.popularity_of(all_shown), 1)
    num_training_users = max(model.bundle.manifest.training_data.num_users, 1)
    return ServedBundle(
        model_version=model.version,
        num_items=model.catalogue.num_items,
        ranks=np.array(
            [
                answer.item_ids.index(user.target_item_id) if user.target_item_id in answer.item_ids else NOT_SHOWN
                for answer, user in zip(answers, users, strict=True)
            ],
            dtype=np.int64,
        ),
        popularity_ranks=_popularity_ranks(model, users, num_shown),
        num_recommended_items=len(np.unique(all_shown)),
        novelty_bits=float(np.log2(num_training_users / times_chosen).mean()) if len(all_shown) else 0.0,
        latency_ms=_percentiles(np.array(asked.seconds)),
        degraded_answers=dict(Counter(str(reason) for answer in answers for reason in answer.degraded_reasons)),
        answers_by_source=dict(Counter(str(answer.source) for answer in answers)),
        exact_overlap=None,
        recall_at_100=None,
    )


def _popularity_ranks(model: ServingModel, users: Sequence[HeldOutUser], num_shown: int) -> npt.NDArray[np.int64]:
    """Rank of each user's held-out item by popularity, among the items that may be shown and that the user has not
    seen: (users,) int64."""
    bundle = model.bundle
    unavailable = bundle.items.unavailable_rows
    shown = bundle.rows_by_popularity[~np.isin(bundle.rows_by_popularity, unavailable)]
    rank_of = np.full(len(bundle.items), len(bundle.items), dtype=np.int64)
    rank_of[shown] = np.arange(len(shown))
    targets: Rows = bundle.item_vocabulary.rows([user.target_item_id for user in users])

    def rank(target: int, state: UserState) -> int:
        rank_among_all = int(rank_of[target])
        if target == MISSING_ROW or rank_among_all == len(rank_of):
            return NOT_SHOWN
        num_seen_before = int((rank_of[model.known_rows(state.seen_item_keys)] < rank_among_all).sum())
        rank_among_unseen = rank_among_all - num_seen_before
        return rank_among_unseen if rank_among_unseen < num_shown else NOT_SHOWN

    ranks = [rank(target, user.state) for target, user in zip(targets.tolist(), users, strict=True)]
    return np.array(ranks, dtype=np.int64)


def _percentiles(seconds: npt.NDArray[np.float64]) -> dict[str, float]:
    parts = [np.percentile(part, _PERCENTILES) for part in np.array_split(seconds, _TIMED_PARTS)]
    medians = 1e3 * np.median(parts, axis=0)
    return {f"p{percentile}": float(value) for percentile, value in zip(_PERCENTILES, medians, strict=True)}
