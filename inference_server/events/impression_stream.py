"""Impressions on their way to their stream: queued by requests, appended in groups by a background task.

A request packs its impression and puts it into a queue, so a slow or missing stream delays no answer. Bytes wait, not
objects: they take a quarter of the memory, and the garbage collector does not go through them. The queue is bounded:
what finds no room, and what no stream has taken for a minute, is dropped and counted.

A group whose outcome is unknown, because the store did not reply, is appended again; feature_sync keeps one impression
of each request id. Unlike events (`group_commit`), no caller waits for them, so they wait in this process instead.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from typing import Final

import structlog

from inference_server.events.stream import Batch, Entry, EventStream, StreamFailed, StreamFull
from inference_server.telemetry.statistics import Statistics
from tandem.contract.impressions import Impression
from tandem.contract.streams import IMPRESSIONS

MAX_WAITING: Final = 10_000
"""Impressions that may wait in this process, about 10 MB and four seconds of a busy worker."""
_MAX_GROUP: Final = 250
"""Redis answers no other client during a transaction, which takes 0.5 ms for this many."""
_GATHER_SECONDS: Final = 0.05
"""Pause in which a group gathers: a group costs as much as 30 impressions, whatever its size."""
_APPEND_SECONDS: Final = 2.0
_RETRY_SECONDS: Final = 0.5
_MAX_RETRY_SECONDS: Final = 60.0

_log = structlog.get_logger()


class ImpressionStream:
    """Appends impressions to their stream, over a connection of its own."""

    def __init__(self, stream: EventStream, statistics: Statistics, *, max_backlog: int) -> None:
        """Nothing is appended while the stream holds `max_backlog` entries or more."""
        self._stream = stream
        self._statistics = statistics
        self._max_backlog = max_backlog
        self._waiting: deque[Entry] = deque()
        self._arrived = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._problem = ""
        self._running: asyncio.Task[None] | None = None
        self.num_dropped = 0
        """Impressions that no stream took."""

    async def start(self) -> None:
        """Starts to append. Does not wait for the stream."""
        self._running = asyncio.create_task(self._run(), name="impressions")

    def write(self, impressions: Sequence[Impression]) -> None:
        """Queues impressions. Never blocks and raises nothing."""
        for impression in impressions:
            if len(self._waiting) >= MAX_WAITING:
                self.num_dropped += 1
                continue
            try:
                self._waiting.append(Entry(impression.user_id.encode(), impression.to_bytes()))
            except ValueError as error:  # an id that is no Unicode text
                self.num_dropped += 1
                _log.error("impression_cannot_be_packed", request_id=impression.request_id, reason=str(error))
        self._idle.clear()
        self._arrived.set()

    async def close(self, *, timeout_seconds: float) -> None:
        """Appends what waits, for at most `timeout_seconds`, and closes the connection."""
        if self._running is not None:
            with suppress(TimeoutError):
                async with asyncio.timeout(timeout_seconds):
                    await self._idle.wait()
            self._running.cancel()
            await asyncio.gather(self._running, return_exceptions=True)
        self.num_dropped += len(self._waiting)
        self._waiting.clear()
        await self._stream.close()

    async def _run(self) -> None:
        while True:
            await self._arrived.wait()
            self._arrived.clear()
            await asyncio.sleep(_GATHER_SECONDS)
            while self._waiting:
                await self._append([self._waiting.popleft() for _ in range(min(_MAX_GROUP, len(self._waiting)))])
            self._idle.set()

    async def _append(self, entries: Sequence[Entry]) -> None:
        """Appends a group, again and again for a minute; drops it then, and if this task is cancelled."""
        give_up_at = time.monotonic() + _MAX_RETRY_SECONDS
        num_left = len(entries)
        try:
            while time.monotonic() < give_up_at:
                if await self._was_appended(entries):
                    num_left = 0
                    return
                await asyncio.sleep(_RETRY_SECONDS)
        finally:
            self.num_dropped += num_left

    async def _was_appended(self, entries: Sequence[Entry]) -> bool:
        try:
            async with asyncio.timeout(_APPEND_SECONDS):
                if self._problem:
                    await self._stream.probe()  # which also finds out whether there is room again
                self._check_room()
                await self._stream.append([Batch(IMPRESSIONS, entries)])
        except (StreamFull, StreamFailed, TimeoutError) as error:
            problem = str(error) or f"no reply within {_APPEND_SECONDS:.0f} s"
            if not self._problem:
                _log.error("impressions_not_appended", reason=problem)
            self._problem = problem
            return False
        finally:
            self._statistics.stream_backlog.update(self._stream.backlog)
        if self._problem:
            _log.info("impressions_appended_again", num_dropped=self.num_dropped)
        self._problem = ""
        return True

    def _check_room(self) -> None:
        backlog = self._stream.backlog.get(IMPRESSIONS, 0)
        if backlog >= self._max_backlog:
            raise StreamFull(
                f"{backlog} impressions wait to be applied, as many as may (TANDEM_IMPRESSIONS_MAX_BACKLOG)"
            )
