"""Admission: takes a permit for a request, validates it, and fixes its model, policy and deadline.

A `Recommend` call never waits for a permit: where none is free it is refused before any other work. So is a call with
many queries, which takes a permit for every few of them. Bulk entries wait. Both hold a share of the permits at most,
so that they never crowd out the calls that a person waits for.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from dataclasses import replace
from typing import Final

from inference_server.core.errors import DeadlineTooShort, InvalidRequest, NoModel, OverCapacity, UnknownScenario
from inference_server.core.query import Query
from inference_server.experiments.slot import ExperimentSlot
from inference_server.model.page_token import request_fingerprint
from inference_server.model.serving_model import ModelSlot, ServingModel
from inference_server.policy.policy_file import Policies, PolicyFile
from inference_server.request.flow.limits import DEFAULT_NUM_ITEMS, new_request_id, validate_query
from inference_server.request.flow.types import Admitted, Caller, Lap, QueryCaller
from tandem.contract.experiments import Assignment
from tandem.contract.vocabulary import NO_ROWS

MIN_BUDGET_SECONDS: Final = 0.001
"""Time that it takes to send even the list of popular items."""
RETRY_AFTER_SECONDS: Final = 0.1
"""Time after which a refused caller may try again: a few times the time that requests in flight may still take."""
_BULK_TIME_FACTOR: Final = 20.0
"""Time limit of a bulk entry, as a multiple of a call's: it lets calls pass, and nobody watches."""
_BULK_SHARE: Final = 0.25
"""Share of the permits that bulk entries may hold together."""
_MANY_SHARE: Final = 0.5
"""Share of the permits that calls with many queries may hold together."""
QUERIES_PER_PERMIT: Final = 8
"""In a full batch, this many queries cost about as much as a request of its own does in a batch of one."""
_QUERIES_PER_DEADLINE: Final = 16
"""A call with many queries has the time of one request, and as much again for every 16 queries: two batches, where
single requests arrive beside it."""


def permits_of(num_queries: int) -> int:
    """Permits that a call with many queries takes."""
    return -(-num_queries // QUERIES_PER_PERMIT)


class Admission:
    """Hands out a bounded number of permits."""

    def __init__(
        self,
        models: ModelSlot,
        policies: PolicyFile,
        *,
        max_concurrent_requests: int,
        max_seconds: float,
        experiments: ExperimentSlot | None = None,
    ) -> None:
        """`max_seconds` caps every deadline. `experiments` None: there are none."""
        self.models: Final = models
        self._policies = policies
        self._experiments = experiments or ExperimentSlot()
        self._free_permits = max_concurrent_requests
        self._max_concurrent_requests = max_concurrent_requests
        self.max_seconds: Final = max_seconds
        """Time that a request may take, even if the caller allows more."""
        self._max_bulk_seconds = _BULK_TIME_FACTOR * max_seconds
        self._reserved = max_concurrent_requests // 2
        """Permits that bulk leaves free."""
        self._max_bulk = max(1, int(_BULK_SHARE * max_concurrent_requests))
        self._max_many = max(1, int(_MANY_SHARE * max_concurrent_requests))
        self._many_in_flight = 0
        self._bulk_in_flight = 0
        self._bulk_waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    @property
    def in_flight(self) -> int:
        """Requests that hold a permit."""
        return self._max_concurrent_requests - self._free_permits

    def model(self) -> ServingModel:
        """The model for requests that are admitted now. Raises NoModel."""
        model = self.models.current
        if model is None:
            raise NoModel("no model has been loaded yet")
        return model

    def admit(self, query: Query, time_remaining_seconds: float | None, *, traced: bool = False) -> Admitted:
        """Takes a permit for a request, to be given back with `release`. Takes none when it raises.

        `time_remaining_seconds` is the time until the caller's deadline; None: there is no deadline.

        Raises OverCapacity, InvalidRequest, NoModel, DeadlineTooShort.
        """
        self.take_permit()
        try:
            seconds = self.seconds_allowed(time_remaining_seconds)
            return self._admitted(query, Caller(asyncio.get_running_loop()), seconds, laps=[] if traced else None)
        except BaseException:
            self.release()
            raise

    async def admit_bulk(self, query: Query) -> Admitted:
        """Waits for a permit of the bulk share, to be given back with `release_bulk`.

        Raises InvalidRequest, NoModel.
        """
        await self.take_bulk(1)
        try:
            return self._admitted(query, Caller(asyncio.get_running_loop()), self._max_bulk_seconds)
        except BaseException:
            self.release_bulk()
            raise

    def admit_query(self, query: Query, caller: QueryCaller, deadline: float, laps: list[Lap] | None) -> Admitted:
        """Admits one query of a call that holds permits, to be answered by `deadline`, in seconds of time.monotonic.

        Raises InvalidRequest, NoModel.
        """
        return self._admitted(query, caller, deadline=deadline, laps=laps)

    def take_many(self, num_queries: int) -> int:
        """Takes the permits of a call with many queries. Returns their number, to be given back with `release_many`.

        Raises OverCapacity where too few are free, or other calls with many queries hold their share.
        """
        count = min(permits_of(num_queries), self._max_many)
        if self._free_permits < count or self._many_in_flight + count > self._max_many:
            raise OverCapacity(
                f"{self.in_flight} requests are in flight, too many to add {num_queries}",
                retry_after_seconds=RETRY_AFTER_SECONDS,
            )
        self._free_permits -= count
        self._many_in_flight += count
        return count

    def release_many(self, count: int) -> None:
        """Gives the permits of a call with many queries back."""
        self._many_in_flight -= count
        for _ in range(count):
            self.release()

    async def take_bulk(self, num_permits: int) -> int:
        """Waits for permits of the bulk share, at most all of it, and takes them at once: a call that held some while
        it waited for others could wait for a call that does the same.

        Returns their number, to be given back with `release_bulk`.
        """
        count = min(num_permits, self._max_bulk)
        granted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._bulk_waiting.append((count, granted))
        self._grant_bulk()
        try:
            await granted
        except asyncio.CancelledError:
            if granted.cancelled():
                self._grant_bulk()  # those behind it may need less
            else:
                self.release_bulk(count)  # granted, and cancelled before it ran again
            raise
        return count

    def take_permit(self) -> None:
        """Takes a permit, to be given back with `release`. Raises OverCapacity where none is free."""
        if self._free_permits == 0:
            raise OverCapacity(
                f"{self._max_concurrent_requests} requests are in flight", retry_after_seconds=RETRY_AFTER_SECONDS
            )
        self._free_permits -= 1

    def release(self) -> None:
        """Gives a permit back."""
        self._free_permits += 1
        if self._bulk_waiting and self._free_permits > self._reserved:
            self._grant_bulk()

    def release_bulk(self, count: int = 1) -> None:
        """Gives permits of the bulk share back."""
        self._bulk_in_flight -= count
        self._free_permits += count
        self._grant_bulk()

    def seconds_allowed(self, time_remaining_seconds: float | None) -> float:
        """The time remaining, capped by `max_seconds`. Raises DeadlineTooShort."""
        return _within(self.max_seconds, time_remaining_seconds)

    def seconds_allowed_to_many(self, num_queries: int, time_remaining_seconds: float | None, *, bulk: bool) -> float:
        """As `seconds_allowed`, for a call with many queries: the cap grows with their number. Raises
        DeadlineTooShort."""
        max_seconds = self._max_bulk_seconds if bulk else self.max_seconds
        return _within(max_seconds * (1.0 + num_queries / _QUERIES_PER_DEADLINE), time_remaining_seconds)

    def _grant_bulk(self) -> None:
        """Grants permits of the bulk share in the order of arrival: those who need one never overtake one who needs
        many."""
        while self._bulk_waiting:
            count, granted = self._bulk_waiting[0]
            if not granted.done():
                if self._bulk_in_flight + count > self._max_bulk or self._free_permits - count < self._reserved:
                    return
                self._free_permits -= count
                self._bulk_in_flight += count
                granted.set_result(None)
            self._bulk_waiting.popleft()

    def _admitted(
        self,
        query: Query,
        caller: Caller | QueryCaller,
        seconds: float = 0.0,
        *,
        deadline: float | None = None,
        laps: list[Lap] | None = None,
    ) -> Admitted:
        """`deadline` None: `seconds` from now."""
        validate_query(query)
        policies = self._policies.current
        try:
            policy = policies.policy(query.scenario)
        except UnknownScenario as error:
            raise InvalidRequest("scenario", str(error)) from error
        assignments = self._experiments.current.assign(query.user_id, query.context, query.scenario)
        listed, without_arm = query, False
        if assignments:
            query, listed, assignments = _in_arms(query, assignments, policies, self.models)
            policy = policies.policy(listed.scenario)
            without_arm = not all(assignment.exposed for assignment in assignments)
        named = self.models.named(query.model) if query.model else None
        model = named or self.model()
        without_model = bool(query.model) and named is None
        fingerprint = request_fingerprint(listed)
        shown_rows = NO_ROWS
        if query.page_token:
            issuer = self.models.that_issued(query.page_token, model)
            if issuer is not model:
                # The pages before are of another arm, and this one is no exposure of the user's.
                model, assignments = issuer, tuple(replace(assignment, exposed=False) for assignment in assignments)
            shown_rows = model.page_tokens.open(query.page_token, fingerprint)
        now = time.monotonic()
        return Admitted(
            request_id=new_request_id(),
            query=query,
            num_items=query.num_items or DEFAULT_NUM_ITEMS,
            policy=policy,
            model=model,
            caller=caller,
            admitted_at=now,
            deadline=now + seconds if deadline is None else deadline,
            fingerprint=fingerprint,
            policies_fingerprint=policies.fingerprint,
            shown_rows=shown_rows,
            assignments=assignments,
            arm_unavailable=without_model or without_arm,
            laps=laps,
        )


def _within(max_seconds: float, time_remaining_seconds: float | None) -> float:
    """The time remaining, capped. Raises DeadlineTooShort."""
    budget_seconds = max_seconds
    if time_remaining_seconds is not None and time_remaining_seconds < budget_seconds:
        budget_seconds = time_remaining_seconds
    if budget_seconds < MIN_BUDGET_SECONDS:
        raise DeadlineTooShort(f"{max(budget_seconds, 0.0) * 1e3:.2f} ms are left, too little for any answer")
    return budget_seconds


def _in_arms(
    query: Query, assignments: tuple[Assignment, ...], policies: Policies, models: ModelSlot
) -> tuple[Query, Query, tuple[Assignment, ...]]:
    """The query with the model of its arms; the query whose list is made, with the scenario of its arms, to which page
    tokens are bound; and its arms. An arm whose model is not in force, or whose scenario the policies do not have, is
    not exposed, and its scenario is left out with its model: the arms of other layers are as they were."""
    model, scenario = query.model, query.scenario
    made = []
    for assignment in assignments:
        model = assignment.model or model
        is_there = not assignment.model or models.named(assignment.model) is not None
        if is_there and (not assignment.scenario or assignment.scenario in policies.scenarios):
            scenario = assignment.scenario or scenario
            made.append(assignment)
        else:
            made.append(replace(assignment, exposed=False))
    if model != query.model:
        query = replace(query, model=model)
    listed = query if scenario == query.scenario else replace(query, scenario=scenario)
    return query, listed, tuple(made)
