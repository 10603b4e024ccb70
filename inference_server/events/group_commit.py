"""Group commit: calls that wait are appended together, so that they share one wait for the disk.

One group is on its way at a time; who comes meanwhile is in the next one. A store that fsyncs every write takes 0.5 ms
to 10 ms for a group, however many calls are in it.

Nothing is dropped: where there is no room, the caller is told so and keeps the events. See
docs/decisions/0033-back-pressure-of-events.md.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from inference_server.core.errors import OverCapacity, StreamUnavailable
from inference_server.events.stream import Batch, EventStream, StreamFailed, StreamFull
from inference_server.store.dependency import Dependency
from inference_server.telemetry.statistics import EVENTS, Statistics

GROUP_ENTRIES: Final = 1000
"""Entries of one group at which no further call is added: Redis answers nobody else during a transaction, 2 ms for so
many."""
MAX_WAITING_ENTRIES: Final = 20_000
"""Entries that may wait for their group; further calls are refused. About a second's worth."""
RETRY_AFTER_FULL_SECONDS: Final = 1.0
"""What callers are told to wait when the stream has no room: feature_sync needs a moment to make some."""
RETRY_AFTER_BUSY_SECONDS: Final = 0.1
"""What callers are told to wait when too many wait in this process."""

_AWAY: Final = "the event stream is not available"
_STOPPING: Final = "the server is stopping"
_MIN_PATIENCE_SECONDS: Final = 0.25
"""How long a group at least may take, even if all its callers give up sooner."""
_PROBE_SECONDS: Final = 0.5
_PROBE_TIMEOUT_SECONDS: Final = 1.0


@dataclass(frozen=True, slots=True, eq=False)
class _Waiting:
    batch: Batch
    give_up_at: float
    """time.monotonic seconds."""
    done: asyncio.Future[None]


class GroupCommit:
    """Appends to a stream for many callers at once, behind a breaker."""

    def __init__(self, stream: EventStream, statistics: Statistics, *, max_backlog: int) -> None:
        """`max_backlog` is the number of entries in a stream from which on further ones are refused."""
        self._stream = stream
        self._statistics = statistics
        self._dependency = Dependency(EVENTS, statistics)
        self._max_backlog = max_backlog
        self._waiting: deque[_Waiting] = deque()
        self._num_waiting_entries = 0
        self._arrived = asyncio.Event()
        self._running: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begins to append. Does not wait for the stream: answers need none."""
        self._running = asyncio.create_task(self._run(), name="events")

    async def close(self) -> None:
        """Ends the connections; callers who still wait are told that the stream is not available."""
        if self._running is not None:
            self._running.cancel()
            await asyncio.gather(self._running, return_exceptions=True)
        self._refuse(self._take(len(self._waiting)), "unavailable", StreamUnavailable, _STOPPING)
        await self._stream.close()

    async def append(self, batch: Batch, patience_seconds: float) -> None:
        """Returns once all entries of the batch are safe.

        Raises OverCapacity; then none of them is in the stream. Raises StreamUnavailable; then nobody knows.
        """
        self._refuse_without_room(batch)
        if not self._dependency.allows():
            self._statistics.writes_refused["unavailable"] += 1
            raise StreamUnavailable(_AWAY)
        started = time.monotonic()
        waiting = _Waiting(batch, started + patience_seconds, asyncio.get_running_loop().create_future())
        self._waiting.append(waiting)
        self._num_waiting_entries += len(batch.entries)
        self._arrived.set()
        try:
            async with asyncio.timeout(patience_seconds):
                await waiting.done
        except TimeoutError:
            self._statistics.writes_refused["too_slow"] += 1
            raise StreamUnavailable("the events were not known to be durable in time") from None
        self._statistics.append_seconds.observe(time.monotonic() - started)

    def _refuse_without_room(self, batch: Batch) -> None:
        backlog = self._stream.backlog.get(batch.stream, 0)
        if backlog >= self._max_backlog:
            self._statistics.writes_refused["backlog"] += 1
            raise OverCapacity(
                f"{backlog} entries wait to be applied, as many as may", retry_after_seconds=RETRY_AFTER_FULL_SECONDS
            )
        if self._num_waiting_entries + len(batch.entries) > MAX_WAITING_ENTRIES:
            self._statistics.writes_refused["waiting"] += 1
            raise OverCapacity(
                f"{self._num_waiting_entries} entries wait to be appended", retry_after_seconds=RETRY_AFTER_BUSY_SECONDS
            )

    async def _run(self) -> None:
        """Appends group by group, and looks at the stream when there is nothing to append."""
        await self._probe()
        while True:
            try:
                async with asyncio.timeout(_PROBE_SECONDS):
                    await self._arrived.wait()
            except TimeoutError:
                if self._dependency.may_be_probed():
                    await self._probe()
                continue
            group = self._next_group()
            if group:
                await self._append_group(group)

    def _next_group(self) -> list[_Waiting]:
        """The calls that have waited longest and whose callers are still there."""
        num_calls = num_entries = 0
        for waiting in self._waiting:
            if num_calls and num_entries + len(waiting.batch.entries) > GROUP_ENTRIES:
                break
            num_calls += 1
            num_entries += len(waiting.batch.entries)
        group = [waiting for waiting in self._take(num_calls) if not waiting.done.done()]
        if not self._waiting:
            self._arrived.clear()
        return group

    def _take(self, num_calls: int) -> list[_Waiting]:
        taken = [self._waiting.popleft() for _ in range(num_calls)]
        self._num_waiting_entries -= sum(len(waiting.batch.entries) for waiting in taken)
        return taken

    async def _append_group(self, group: list[_Waiting]) -> None:
        patience_seconds = max(waiting.give_up_at for waiting in group) - time.monotonic()
        try:
            async with asyncio.timeout(max(patience_seconds, _MIN_PATIENCE_SECONDS)):
                await self._stream.append([waiting.batch for waiting in group])
        except StreamFull as full:
            self._dependency.succeeded()
            self._refuse(group, "no_room", OverCapacity, str(full), retry_after_seconds=RETRY_AFTER_FULL_SECONDS)
        except (StreamFailed, TimeoutError) as failed:
            self._dependency.failed(str(failed) or "timeout")
            self._refuse(group, "unavailable", StreamUnavailable, _AWAY)
        except asyncio.CancelledError:
            self._refuse(group, "unavailable", StreamUnavailable, _STOPPING)
            raise
        else:
            self._dependency.succeeded()
            for waiting in group:
                if not waiting.done.done():
                    waiting.done.set_result(None)
        self._statistics.stream_backlog.update(self._stream.backlog)

    def _refuse(
        self, group: Sequence[_Waiting], reason: str, error: Callable[..., Exception], *message: str, **details: float
    ) -> None:
        for waiting in group:
            if not waiting.done.done():
                self._statistics.writes_refused[reason] += 1
                waiting.done.set_exception(error(*message, **details))

    async def _probe(self) -> None:
        try:
            async with asyncio.timeout(_PROBE_TIMEOUT_SECONDS):
                await self._stream.probe()
        except (StreamFailed, TimeoutError) as failed:
            self._dependency.failed(str(failed) or "timeout")
        else:
            self._dependency.succeeded()
        self._statistics.stream_backlog.update(self._stream.backlog)
