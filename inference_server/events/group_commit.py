"""Group commit: entries of concurrent calls are appended together, so that the calls share one wait for the disk.

One group is appended at a time, and calls that arrive meanwhile form the next one. A store that fsyncs every write
takes 0.5 ms to 10 ms for a group, which does not depend on the number of calls in it.

Nothing is dropped: when there is no room, a call is refused, and its caller still has the events. See
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

MAX_GROUP_ENTRIES: Final = 1000
"""A group holds at most this many entries, or a single call: Redis answers no other client during a transaction, which
takes 2 ms for this many."""
MAX_WAITING_ENTRIES: Final = 20_000
"""Entries that may wait for their group, about a second's worth. Beyond it, calls are refused."""
RETRY_AFTER_FULL_SECONDS: Final = 1.0
"""When to try again if the stream has no room: feature_sync needs a moment to make some."""
RETRY_AFTER_BUSY_SECONDS: Final = 0.1
"""When to try again if too many entries wait in this process."""

_UNAVAILABLE: Final = "the event stream is not available"
_STOPPING: Final = "the server is stopping"
_MIN_PATIENCE_SECONDS: Final = 0.25
"""Shortest time that a group is given, even if all its callers give up sooner."""
_PROBE_SECONDS: Final = 0.5
"""Pause between two probes while there is nothing to append."""
_PROBE_TIMEOUT_SECONDS: Final = 1.0


@dataclass(frozen=True, slots=True, eq=False)
class _Call:
    """A call whose entries wait, or are being appended."""

    batch: Batch
    give_up_at: float
    """time.monotonic seconds."""
    done: asyncio.Future[None]


class GroupCommit:
    """Appends to a stream for many concurrent callers, behind a breaker."""

    def __init__(self, stream: EventStream, statistics: Statistics, *, max_backlog: int) -> None:
        """Calls are refused while their stream holds `max_backlog` entries or more."""
        self._stream = stream
        self._statistics = statistics
        self._dependency = Dependency(EVENTS, statistics)
        self._max_backlog = max_backlog
        self._waiting: deque[_Call] = deque()
        self._num_waiting_entries = 0
        self._arrived = asyncio.Event()
        self._running: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Starts to append. Does not wait for the stream, which no recommendation needs."""
        self._running = asyncio.create_task(self._run(), name="events")

    async def close(self) -> None:
        """Closes the connections. Callers that still wait get StreamUnavailable."""
        if self._running is not None:
            self._running.cancel()
            await asyncio.gather(self._running, return_exceptions=True)
        self._refuse(self._take(len(self._waiting)), "unavailable", StreamUnavailable, _STOPPING)
        await self._stream.close()

    async def append(self, batch: Batch, patience_seconds: float) -> None:
        """Returns once all entries of the batch are durable.

        Raises OverCapacity, and then none of them is in the stream; or StreamUnavailable, and then any of them may be.
        """
        self._check_room(batch)
        if not self._dependency.allows():
            self._statistics.writes_refused["unavailable"] += 1
            raise StreamUnavailable(f"{_UNAVAILABLE}: {self._dependency.problem}")
        started = time.monotonic()
        call = _Call(batch, started + patience_seconds, asyncio.get_running_loop().create_future())
        self._waiting.append(call)
        self._num_waiting_entries += len(batch.entries)
        self._arrived.set()
        try:
            async with asyncio.timeout(patience_seconds):
                await call.done
        except TimeoutError:
            self._statistics.writes_refused["too_slow"] += 1
            reason = "" if self._dependency.is_up else f": {self._dependency.problem}"
            raise StreamUnavailable(f"the events were not known to be durable in time{reason}") from None
        self._statistics.append_seconds.observe(time.monotonic() - started)

    def _check_room(self, batch: Batch) -> None:
        """Raises OverCapacity when the stream, or the queue in this process, has no room for the batch."""
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
        """Appends one group after the other, and probes the stream while there is nothing to append."""
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

    def _next_group(self) -> list[_Call]:
        """Takes the calls that have waited longest, and drops those whose callers have given up."""
        num_calls = num_entries = 0
        for call in self._waiting:
            if num_calls and num_entries + len(call.batch.entries) > MAX_GROUP_ENTRIES:
                break
            num_calls += 1
            num_entries += len(call.batch.entries)
        group = [call for call in self._take(num_calls) if not call.done.done()]
        if not self._waiting:
            self._arrived.clear()
        return group

    def _take(self, num_calls: int) -> list[_Call]:
        taken = [self._waiting.popleft() for _ in range(num_calls)]
        self._num_waiting_entries -= sum(len(call.batch.entries) for call in taken)
        return taken

    async def _append_group(self, group: list[_Call]) -> None:
        patience_seconds = max(call.give_up_at for call in group) - time.monotonic()
        try:
            async with asyncio.timeout(max(patience_seconds, _MIN_PATIENCE_SECONDS)):
                await self._stream.append([call.batch for call in group])
        except StreamFull as full:
            self._dependency.refused(str(full))
            self._refuse(group, "no_room", OverCapacity, str(full), retry_after_seconds=RETRY_AFTER_FULL_SECONDS)
        except (StreamFailed, TimeoutError) as failed:
            reason = str(failed) or self._timeout_reason()
            self._dependency.failed(reason)
            self._refuse(group, "unavailable", StreamUnavailable, f"{_UNAVAILABLE}: {reason}")
        except asyncio.CancelledError:
            self._refuse(group, "unavailable", StreamUnavailable, _STOPPING)
            raise
        else:
            self._dependency.succeeded()
            for call in group:
                if not call.done.done():
                    call.done.set_result(None)
        self._statistics.stream_backlog.update(self._stream.backlog)

    def _refuse(
        self, calls: Sequence[_Call], reason: str, error: Callable[..., Exception], *message: str, **details: float
    ) -> None:
        for call in calls:
            if not call.done.done():
                self._statistics.writes_refused[reason] += 1
                call.done.set_exception(error(*message, **details))

    def _timeout_reason(self) -> str:
        """A timeout says less than what a probe may have found out before."""
        return "timeout" if self._dependency.is_up else self._dependency.problem or "timeout"

    async def _probe(self) -> None:
        try:
            async with asyncio.timeout(_PROBE_TIMEOUT_SECONDS):
                await self._stream.probe()
        except StreamFull as full:
            self._dependency.refused(str(full))
        except (StreamFailed, TimeoutError) as failed:
            self._dependency.failed(str(failed) or self._timeout_reason())
        else:
            self._dependency.succeeded()
        self._statistics.stream_backlog.update(self._stream.backlog)
