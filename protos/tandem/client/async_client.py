"""The client for asyncio, on grpc.aio: the same calls as `TandemClient`, awaited."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any, Self, Unpack

import grpc

from tandem.client.arguments import check_iterable, integer
from tandem.client.attempts import Answered, Outcome, Start
from tandem.client.connection import Endpoint
from tandem.client.core import (
    BATCH_DEADLINE_MS,
    MAX_IN_FLIGHT,
    MAX_PAGES,
    READY_SECONDS,
    RECOMMEND_BATCH,
    UNARY_RESPONSES,
    WRITE_DEADLINE_MS,
    BatchProgress,
    ClientCore,
    PreparedCall,
    ResultT,
    batch_outcome,
    closed_meanwhile,
    to_bytes,
)
from tandem.client.errors import TandemError
from tandem.client.query import NO_FILTER, Filter, Query, QueryOptions, batch_request
from tandem.client.results import Recommendations, ServingStatus, SimilarItems
from tandem.client.writes import Event, Item
from tandem.v1 import recommendation_pb2 as pb


class AsyncTandemClient(ClientCore):
    """Client of a Tandem server. Belongs to the event loop that creates it; create one per loop and keep it."""

    def _open(self, endpoint: Endpoint) -> None:
        asyncio.get_running_loop()  # raises RuntimeError: a channel created outside would belong to another loop
        if endpoint.credentials is None:
            self._channel = grpc.aio.insecure_channel(endpoint.target, options=endpoint.options)
        else:
            self._channel = grpc.aio.secure_channel(endpoint.target, endpoint.credentials, options=endpoint.options)
        self._methods = {
            method: self._channel.unary_unary(method, to_bytes, read) for method, read in UNARY_RESPONSES.items()
        }
        self._batch = self._channel.stream_stream(RECOMMEND_BATCH, to_bytes, pb.RecommendBatchResponse.FromString)

    async def recommend(
        self,
        user_id: str = "",
        *,
        num_items: int = 10,
        recent_item_ids: Sequence[str] = (),
        filter: Filter = NO_FILTER,
        exclude_seen: bool = True,
        diversity: float | None = None,
        explain: bool = False,
        scenario: str = "",
        page_token: str = "",
        context: Mapping[str, str] | None = None,
        deadline_ms: float | None = None,
    ) -> Recommendations:
        """Recommends items for a user; see `Query` for the arguments. Raises TandemError."""
        query = Query(
            user_id=user_id,
            num_items=num_items,
            recent_item_ids=recent_item_ids,
            filter=filter,
            exclude_seen=exclude_seen,
            diversity=diversity,
            explain=explain,
            scenario=scenario,
            page_token=page_token,
            context={} if context is None else context,
        )
        return await self._carry_out(self._recommend_call(query, deadline_ms))

    async def pages(
        self,
        user_id: str = "",
        *,
        max_pages: int = MAX_PAGES,
        deadline_ms: float | None = None,
        **options: Unpack[QueryOptions],
    ) -> AsyncIterator[Recommendations]:
        """Yields up to `max_pages` pages, beginning with the first; each is requested when the caller takes it.

        `deadline_ms` applies to each page. Raises TandemError; PageExpired if the bundle changed between pages.
        """
        query = Query(user_id=user_id, **options)
        for _ in range(integer("max_pages", max_pages)):
            page = await self._carry_out(self._recommend_call(query, deadline_ms))
            yield page
            if not page.next_page_token:
                return
            query = query.following(page.next_page_token)

    async def similar_items(
        self,
        item_ids: Sequence[str],
        *,
        num_items: int = 10,
        filter: Filter = NO_FILTER,
        explain: bool = False,
        deadline_ms: float | None = None,
    ) -> SimilarItems:
        """Finds items similar to the given items, excluding them. Raises TandemError; NotFound for an unknown item."""
        return await self._carry_out(
            self._similar_items_call(
                item_ids, num_items=num_items, filter=filter, explain=explain, deadline_ms=deadline_ms
            )
        )

    async def record_events(self, events: Iterable[Event], *, deadline_ms: float = WRITE_DEADLINE_MS) -> int:
        """Records events, all or nothing. Returns their number once they are durable.

        Retries repeat the ids of the events, so that no event takes effect twice; this also holds for a second call
        with the same `Event` objects after TandemError. Raises TandemError.
        """
        return await self._carry_out(self._record_events_call(events, deadline_ms))

    async def upsert_items(self, items: Iterable[Item], *, deadline_ms: float = WRITE_DEADLINE_MS) -> int:
        """Adds items to the catalogue or replaces them, all or nothing. Returns their number. Raises TandemError."""
        return await self._carry_out(self._upsert_items_call(items, deadline_ms))

    async def delete_items(self, item_ids: Iterable[str], *, deadline_ms: float = WRITE_DEADLINE_MS) -> int:
        """Removes items from the catalogue, all or nothing. Returns their number, including unknown items. Raises
        TandemError."""
        return await self._carry_out(self._delete_items_call(item_ids, deadline_ms))

    async def recommend_all(
        self, queries: Iterable[Query], *, in_bulk: bool = False, deadline_ms: float | None = None
    ) -> list[Recommendations | TandemError]:
        """Answers 1 to 256 queries in one call with one deadline: the shelves of a page, or several users.

        Returns the outcome of each query, in their order: its answer, or the exception of a query that is refused or
        for which no time was left. `in_bulk`: nobody waits; the server answers all other calls first, and the deadline
        is 60,000 ms unless the call sets `deadline_ms`. Retries repeat the whole call. Raises TandemError for what
        concerns the whole call.
        """
        return await self._carry_out(self._recommend_all_call(queries, in_bulk=in_bulk, deadline_ms=deadline_ms))

    async def recommend_many(
        self,
        requests: Iterable[tuple[str, Query]] | AsyncIterable[tuple[str, Query]],
        *,
        max_in_flight: int = MAX_IN_FLIGHT,
        deadline_ms: float = BATCH_DEADLINE_MS,
    ) -> AsyncIterator[tuple[str, Recommendations | TandemError]]:
        """Answers any number of (correlation id, query) pairs on one stream, in the order in which answers are ready.

        A refused entry yields its exception; the other entries are not affected. `requests` is read in the event loop,
        at most `max_in_flight` requests ahead of the answers. `deadline_ms` applies to the whole batch. Nothing is
        retried: if TandemError is raised, the unanswered queries can be sent as a new batch.
        """
        self._check_open()
        check_iterable("requests", requests, "pairs of a correlation id and a Query")
        progress = BatchProgress(max_in_flight=max_in_flight, deadline_ms=deadline_ms)
        window = asyncio.Semaphore(max_in_flight)

        async def feed() -> AsyncIterator[pb.RecommendBatchRequest]:
            try:
                async for entry in _async_iterator(requests):
                    await window.acquire()
                    request = batch_request(entry)
                    progress.num_sent += 1
                    yield request
            except Exception as error:  # gRPC would log it and say only that the call was cancelled
                progress.feed_error = error

        call = self._batch(feed(), timeout=progress.deadline_seconds, metadata=self._metadata)
        try:
            async for response in call:
                progress.num_answered += 1
                window.release()
                yield batch_outcome(response)
            progress.check_complete()
        except grpc.aio.AioRpcError as error:
            raise progress.error_of(
                self._failure_of(error.code(), error.details(), error.trailing_metadata())
            ) from error
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task and task.cancelling():
                raise
            # The stream was cancelled, not its reader.
            if progress.feed_error is not None:
                raise progress.feed_error from None
            if self._closed:
                raise closed_meanwhile() from None
            raise progress.error_of(self._failure_of(grpc.StatusCode.CANCELLED, None, None)) from None
        finally:
            call.cancel()

    async def status(self, *, deadline_ms: float | None = None) -> ServingStatus:
        """Status of the worker that happens to answer. Raises TandemError."""
        return await self._carry_out(self._status_call(deadline_ms))

    async def wait_until_ready(self, timeout_seconds: float = READY_SECONDS) -> None:
        """Returns once the server has a model (health SERVING). Raises Unavailable after `timeout_seconds`."""
        await self._carry_out(self._ready_call(timeout_seconds))

    async def close(self) -> None:
        """Closes the connections; calls of other tasks raise Cancelled."""
        self._closed = True
        await self._channel.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def _carry_out(self, call: PreparedCall[ResultT]) -> ResultT:
        """Carries out the call's plan. Attempts that are left over at its end are cancelled."""
        method = self._methods[call.method]
        ended: asyncio.Queue[Any] = asyncio.Queue()
        started: list[Any] = []
        outcome: Outcome = None
        try:
            step = next(call.plan)
            while True:
                if isinstance(step, Start):
                    self._check_not_closed_meanwhile()
                    attempt = method(call.request, timeout=step.timeout_seconds, metadata=self._metadata)
                    started.append(attempt)
                    attempt.add_done_callback(ended.put_nowait)
                    outcome = None
                else:
                    outcome = await self._next_end(ended, step.timeout_seconds)
                step = call.plan.send(outcome)
        except StopIteration as end:
            return call.read(end.value)
        finally:
            for attempt in started:
                attempt.cancel()

    async def _next_end(self, ended: asyncio.Queue[Any], timeout_seconds: float | None) -> Outcome:
        """The outcome of the next attempt to end; None if none ends in time."""
        try:
            async with asyncio.timeout(timeout_seconds):
                attempt = await ended.get()
        except TimeoutError:
            return None
        code = await attempt.code()
        if code is grpc.StatusCode.OK:
            return Answered(await attempt)
        return self._failure_of(code, await attempt.details(), await attempt.trailing_metadata())


async def _async_iterator(
    requests: Iterable[tuple[str, Query]] | AsyncIterable[tuple[str, Query]],
) -> AsyncIterator[tuple[str, Query]]:
    if isinstance(requests, AsyncIterable):
        async for request in requests:
            yield request
    else:
        for request in requests:
            yield request
