"""RecommendMany: the queries of one call, with one deadline, one timer and one future for all of them.

Per query, a call costs no task, no timer and no future, and its queries share micro-batches with each other and with
other calls. The event loop has turns in between, so that single requests are read while a large call is taken apart.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from inference_server.core.answers import Answer
from inference_server.core.errors import DeadlineTooShort
from inference_server.core.query import Query
from inference_server.core.request_warnings import RequestWarning
from inference_server.request.admission import Admission
from inference_server.request.arms import Arm, Arms
from inference_server.request.around_batch import AroundBatch
from inference_server.request.flow.ladder import SECONDS_TO_ANSWER
from inference_server.request.flow.types import Admitted, Lap, ManyCallers, QueryCaller
from inference_server.request.journal import Journal
from inference_server.security.callers import require_user

CHUNK: Final = 32
"""Queries that are admitted, or whose answers are completed, before others have a turn: about half a millisecond."""
_SECONDS_FROM_MEMORY: Final = 0.0003
"""Reserved for each query, because all that are open near the deadline are answered from memory one after another."""
_MAX_RESERVED_SHARE: Final = 0.25
"""Maximum share of a call's time that is reserved so."""
_SECONDS_TO_REPLY: Final = 0.00002
"""Reserved for writing the answer to each query."""


@dataclass(frozen=True, slots=True)
class _Joined:
    """A query that waits for a batch."""

    index: int
    admitted: Admitted
    arm: Arm
    warnings: tuple[RequestWarning, ...]


class Many:
    """Answers calls with many queries, which hold their permits already."""

    def __init__(self, *, admission: Admission, arms: Arms, around: AroundBatch, journal: Journal) -> None:
        self._admission = admission
        self._arms = arms
        self._around = around
        self._journal = journal

    async def outcomes(
        self, queries: Sequence[Query], deadline: float, *, in_bulk: bool, traceparent: str | None
    ) -> list[Answer | Exception]:
        """The outcome of each query, in their order; `deadline` is in seconds of time.monotonic."""
        started_at = time.monotonic()
        laps: list[Lap] | None = [] if self._journal.traces else None
        callers = ManyCallers(asyncio.get_running_loop(), len(queries))
        seconds = deadline - started_at
        last_moment = deadline - min(_SECONDS_FROM_MEMORY * len(queries), _MAX_RESERVED_SHARE * seconds)
        joined = await self._admit(queries, callers, last_moment, laps)
        if joined:
            await self._answered(joined, callers, last_moment, in_bulk=in_bulk)
            await self._complete(joined, callers, deadline - _SECONDS_TO_REPLY * len(queries))
        outcomes = [outcome for outcome in callers.outcomes if outcome is not None]
        if laps is not None:
            self._journal.trace_many(outcomes, started_at, laps, traceparent)
        return outcomes

    async def _admit(
        self, queries: Sequence[Query], callers: ManyCallers, last_moment: float, laps: list[Lap] | None
    ) -> list[_Joined]:
        """Admits the queries. One that is refused has its outcome at once."""
        joined = []
        for index, query in enumerate(queries):
            if index % CHUNK == CHUNK - 1:
                await asyncio.sleep(0)
            try:
                require_user(query.user_id)
                admitted = self._admission.admit_query(query, QueryCaller(callers, index), last_moment, laps)
                warnings = await self._around.before(admitted)
            except Exception as error:  # also a bug of ours: it is the outcome of the query that meets it
                callers.set_outcome(index, error)
            else:
                joined.append(_Joined(index, admitted, self._arms.of(admitted.model), warnings))
        return joined

    @staticmethod
    async def _answered(joined: Sequence[_Joined], callers: ManyCallers, last_moment: float, *, in_bulk: bool) -> None:
        """Waits until every query has an outcome, or the time is nearly over."""
        by_arm: dict[str, tuple[Arm, list[Admitted]]] = {}
        for query in joined:
            by_arm.setdefault(query.arm.name, (query.arm, []))[1].append(query.admitted)
        seconds = max(last_moment - SECONDS_TO_ANSWER - time.monotonic(), 0.0)
        timer = asyncio.get_running_loop().call_later(seconds, callers.give_up)
        try:
            for arm, admitted in by_arm.values():
                if in_bulk:
                    arm.batches.join_bulk(*admitted)
                else:
                    arm.batches.join_many(admitted)
            await callers.wait()
        finally:
            timer.cancel()

    async def _complete(self, joined: Sequence[_Joined], callers: ManyCallers, deadline: float) -> None:
        """Completes the answers. A query without one is answered from memory, while there is time."""
        outcomes = callers.outcomes
        for number, query in enumerate(joined):
            if number % CHUNK == CHUNK - 1:
                await asyncio.sleep(0)
            outcome = outcomes[query.index]
            if isinstance(outcome, Exception):
                self._around.failed(query.admitted, outcome)
                continue
            if outcome is None and time.monotonic() > deadline - SECONDS_TO_ANSWER:
                outcomes[query.index] = DeadlineTooShort("the time of the call ended before this query was answered")
                continue
            try:
                answer = self._around.after(query.admitted, query.arm, outcome, query.warnings)
                self._journal.record(query.admitted, answer)
                outcomes[query.index] = answer
            except Exception as error:  # a bug of ours: the other queries have their answers
                outcomes[query.index] = error
