"""The client for programs without an event loop.

Every attempt is a gRPC future that is put on a queue when it ends. Waiting for an attempt, for the start of a hedge and
for a pause is therefore the same wait on the queue, which Ctrl-C interrupts.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
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
    to_bytes,
)
from tandem.client.errors import TandemError
from tandem.client.query import NO_FILTER, Filter, Query, QueryOptions, batch_request
from tandem.client.results import Recommendations, ServingStatus, SimilarItems
from tandem.client.writes import Event, Item
from tandem.v1 import recommendation_pb2 as pb


class TandemClient(ClientCore):
    """Client of a Tandem server. Thread-safe; create one per process and keep it."""

    def _open(self, endpoint: Endpoint) -> None:
        if endpoint.credentials is None:
            self._channel = grpc.insecure_channel(endpoint.target, options=endpoint.options)
        else:
            self._channel = grpc.secure_channel(endpoint.target, endpoint.credentials, options=endpoint.options)
        self._methods = {
            method: self._channel.unary_unary(method, to_bytes, read) for method, read in UNARY_RESPONSES.items()
        }
        self._batch = self._channel.stream_stream(RECOMMEND_BATCH, to_bytes, pb.RecommendBatchResponse.FromString)

    def recommend(
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
        return self._carry_out(self._recommend_call(query, deadline_ms))

    def pages(
        self,
        user_id: str = "",
        *,
        max_pages: int = MAX_PAGES,
        deadline_ms: float | None = None,
        **options: Unpack[QueryOptions],
    ) -> Iterator[Recommendations]:
        """Yields up to `max_pages` pages, beginning with the first; each is requested when the caller takes it.

        `deadline_ms` applies to each page. Raises TandemError; PageExpired if the bundle changed between pages.
        """
        query = Query(user_id=user_id, **options)
        for _ in range(integer("max_pages", max_pages)):
            page = self._carry_out(self._recommend_call(query, deadline_ms))
            yield page
            if not page.next_page_token:
                return
            query = query.following(page.next_page_token)

    def similar_items(
        self,
        item_ids: Sequence[str],
        *,
        num_items: int = 10,
        filter: Filter = NO_FILTER,
        explain: bool = False,
        deadline_ms: float | None = None,
    ) -> SimilarItems:
        """Finds items similar to the given items, excluding them. Raises TandemError; NotFound for an unknown item."""
        return self._carry_out(
            self._similar_items_call(
                item_ids, num_items=num_items, filter=filter, explain=explain, deadline_ms=deadline_ms
            )
        )

    def record_events(self, events: Iterable[Event], *, deadline_ms: float = WRITE_DEADLINE_MS) -> int:
        """Records events, all or nothing. Returns their number once they are durable.

        Retries repeat the ids of the events, so that no event takes effect twice; this also holds for a second call
        with the same `Event` objects after TandemError. Raises TandemError.
        """
        return self._carry_out(self._record_events_call(events, deadline_ms))

    def upsert_items(self, items: Iterable[Item], *, deadline_ms: float = WRITE_DEADLINE_MS) -> int:
        """Adds items to the catalogue or replaces them, all or nothing. Returns their number. Raises TandemError."""
        return self._carry_out(self._upsert_items_call(items, deadline_ms))

    def delete_items(self, item_ids: Iterable[str], *, deadline_ms: float = WRITE_DEADLINE_MS) -> int:
        """Removes items from the catalogue, all or nothing. Returns their number, including unknown items. Raises
        TandemError."""
        return self._carry_out(self._delete_items_call(item_ids, deadline_ms))

    def recommend_all(
        self, queries: Iterable[Query], *, in_bulk: bool = False, deadline_ms: float | None = None
    ) -> list[Recommendations | TandemError]:
        """Answers 1 to 256 queries in one call with one deadline: the shelves of a page, or several users.

        Returns the outcome of each query, in their order: its answer, or the exception of a query that is refused or
        for which no time was left. `in_bulk`: nobody waits; the server answers all other calls first, and the deadline
        is 60,000 ms unless the call sets `deadline_ms`. Retries repeat the whole call. Raises TandemError for what
        concerns the whole call.
        """
        return self._carry_out(self._recommend_all_call(queries, in_bulk=in_bulk, deadline_ms=deadline_ms))

    def recommend_many(
        self,
        requests: Iterable[tuple[str, Query]],
        *,
        max_in_flight: int = MAX_IN_FLIGHT,
        deadline_ms: float = BATCH_DEADLINE_MS,
    ) -> Iterator[tuple[str, Recommendations | TandemError]]:
        """Answers any number of (correlation id, query) pairs on one stream, in the order in which answers are ready.

        A refused entry yields its exception; the other entries are not affected. `requests` is read in a thread of
        gRPC, at most `max_in_flight` requests ahead of the answers. `deadline_ms` applies to the whole batch. Nothing
        is retried: if TandemError is raised, the unanswered queries can be sent as a new batch.
        """
        self._check_open()
        check_iterable("requests", requests, "pairs of a correlation id and a Query")
        progress = BatchProgress(max_in_flight=max_in_flight, deadline_ms=deadline_ms)
        window = threading.Semaphore(max_in_flight)

        def feed() -> Iterator[pb.RecommendBatchRequest]:
            try:
                for entry in requests:
                    window.acquire()
                    if progress.ended:
                        return
                    request = batch_request(entry)
                    progress.num_sent += 1
                    yield request
            except Exception as error:  # gRPC would log it and say only "exception iterating requests"
                progress.feed_error = error

        call = self._batch(feed(), timeout=progress.deadline_seconds, metadata=self._metadata)
        try:
            for response in call:
                progress.num_answered += 1
                window.release()
                yield batch_outcome(response)
            progress.check_complete()
        except grpc.RpcError as error:
            raise progress.error_of(self._failure_of(call.code(), call.details(), call.trailing_metadata())) from error
        finally:
            progress.ended = True
            window.release()  # wakes `feed`, which then sees `ended`
            call.cancel()

    def status(self, *, deadline_ms: float | None = None) -> ServingStatus:
        """Status of the worker that happens to answer. Raises TandemError."""
        return self._carry_out(self._status_call(deadline_ms))

    def wait_until_ready(self, timeout_seconds: float = READY_SECONDS) -> None:
        """Returns once the server has a model (health SERVING). Raises Unavailable after `timeout_seconds`."""
        self._carry_out(self._ready_call(timeout_seconds))

    def close(self) -> None:
        """Closes the connections; calls in other threads raise Cancelled."""
        self._closed = True
        self._channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _carry_out(self, call: PreparedCall[ResultT]) -> ResultT:
        """Carries out the call's plan. Attempts that are left over at its end are cancelled."""
        method = self._methods[call.method]
        ended: queue.SimpleQueue[Any] = queue.SimpleQueue()
        started: list[Any] = []
        outcome: Outcome = None
        try:
            step = next(call.plan)
            while True:
                if isinstance(step, Start):
                    self._check_not_closed_meanwhile()
                    attempt = method.future(call.request, timeout=step.timeout_seconds, metadata=self._metadata)
                    started.append(attempt)
                    attempt.add_done_callback(ended.put)
                    outcome = None
                else:
                    outcome = self._next_end(ended, step.timeout_seconds)
                step = call.plan.send(outcome)
        except StopIteration as end:
            return call.read(end.value)
        finally:
            for attempt in started:
                attempt.cancel()

    def _next_end(self, ended: queue.SimpleQueue[Any], timeout_seconds: float | None) -> Outcome:
        """The outcome of the next attempt to end; None if none ends in time."""
        try:
            attempt = ended.get(timeout=timeout_seconds)
        except queue.Empty:
            return None
        if attempt.code() is grpc.StatusCode.OK:
            return Answered(attempt.result())
        return self._failure_of(attempt.code(), attempt.details(), attempt.trailing_metadata())
