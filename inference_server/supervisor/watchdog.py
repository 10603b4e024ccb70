"""Kills workers whose event loop does not run any more. Whoever waits for such a worker then starts another one.

A worker that is merely slow must live: its successor would be slow as well, and would have to open the bundle first. So
silence alone is no proof:

- A supervisor that did not run itself cannot judge. When a look comes late, every worker gets its whole patience again:
  messages may wait unread, and what stopped the supervisor probably stopped the workers.
- A worker that is ready to run, but gets no processor, is starved and does not hang. It hangs once it has had processor
  time for the whole patience without a beat. The same holds for a worker that waits for a disk.
- Workers that fall silent together are killed one after the other, with a patience between them, so that one of them is
  there while another starts.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final, Protocol

import structlog

from inference_server.core.hang import STACKS_FILE, STACKS_SIGNAL
from inference_server.supervisor.process_usage import usage
from inference_server.telemetry.statistics import WorkerIdentity

_log = structlog.get_logger()

_LOOK_SECONDS: Final = 0.1
_LATE_SECONDS: Final = 0.3
"""A look that comes later than this after the one before finds a supervisor that was stopped or starved."""
_STARVED_PATIENCES: Final = 10
"""Patiences after which a starved worker is killed nevertheless."""
_STACKS_SECONDS: Final = 0.1
"""Time in which a worker may write its stacks."""
_MAX_STACKS_CHARACTERS: Final = 8000
_READY_OR_AT_DISK: Final = frozenset("RD")


class Watched(Protocol):
    """A worker, as the watchdog needs it."""

    last_sign_at: float
    """When its event loop last showed that it runs, on the monotonic clock."""

    @property
    def identity(self) -> WorkerIdentity:
        """Which of the workers it is."""
        ...

    @property
    def pid(self) -> int:
        """Its process id."""
        ...

    def kill(self) -> None:
        """Ends the process at once."""
        ...


class Watchdog:
    """Watches the workers that answer."""

    def __init__(self, *, patience_seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        """A worker that hangs is killed after `patience_seconds` of silence."""
        self._patience_seconds = patience_seconds
        self._clock = clock
        self._cpu_seconds: dict[Watched, float] = {}
        """Processor time of a silent worker, when it was first found silent for half the patience."""

    async def run(self, workers: Callable[[], Iterable[Watched]]) -> None:
        """Looks at the workers until it is cancelled."""
        looked_at = self._clock()
        while True:
            await asyncio.sleep(_LOOK_SECONDS)
            now = self._clock()
            if now - looked_at > _LATE_SECONDS:
                for worker in workers():
                    worker.last_sign_at = now
            looked_at = now
            if (hanging := self._longest_hanging(workers(), now)) is not None:
                await self._kill(hanging, now)
                for worker in workers():
                    worker.last_sign_at = max(worker.last_sign_at, now - self._patience_seconds / 2)
                looked_at = self._clock()

    def _longest_hanging(self, workers: Iterable[Watched], now: float) -> Watched | None:
        silent = {worker: now - worker.last_sign_at for worker in workers}
        silent = {worker: seconds for worker, seconds in silent.items() if seconds > self._patience_seconds / 2}
        self._cpu_seconds = {worker: self._cpu_seconds.get(worker, _cpu_seconds(worker.pid)) for worker in silent}
        hanging = [worker for worker, seconds in silent.items() if self._hangs(worker, seconds)]
        return max(hanging, key=silent.__getitem__, default=None)

    def _hangs(self, worker: Watched, silent_seconds: float) -> bool:
        if silent_seconds < self._patience_seconds:
            return False
        if silent_seconds > _STARVED_PATIENCES * self._patience_seconds or not _wants_to_run(worker.pid):
            return True
        return _cpu_seconds(worker.pid) - self._cpu_seconds[worker] >= self._patience_seconds / 2

    async def _kill(self, worker: Watched, now: float) -> None:
        stacks = await _stacks(worker.pid)
        _log.error(
            "worker_hangs",
            worker=worker.identity.worker,
            pid=worker.pid,
            silent_seconds=round(now - worker.last_sign_at, 2),
            stacks=stacks or "not known: the process does not run",
        )
        worker.kill()


def _cpu_seconds(pid: int) -> float:
    used = usage(pid)
    return used.cpu_seconds if used is not None else 0.0


def _wants_to_run(pid: int) -> bool:
    """Whether a thread of a process is ready to run or waits for a disk."""
    for stat in Path("/proc", str(pid), "task").glob("*/stat"):
        with contextlib.suppress(OSError):
            if stat.read_text().rpartition(")")[2].split()[0] in _READY_OR_AT_DISK:
                return True
    return False


async def _stacks(pid: int) -> str:
    """The stacks of a worker's threads; empty when it cannot write them, because it is stopped for example."""
    try:
        file = _stacks_file(pid)
        if file is None:
            return ""
        os.kill(pid, STACKS_SIGNAL)
        await asyncio.sleep(_STACKS_SECONDS)
        return file.read_text()[:_MAX_STACKS_CHARACTERS]
    except OSError:
        return ""


def _stacks_file(pid: int) -> Path | None:
    files = Path("/proc", str(pid), "fd").iterdir()
    return next((file for file in files if STACKS_FILE in str(file.readlink())), None)
