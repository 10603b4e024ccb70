"""The parts of `feature_sync run`: each has a thread, all are stopped together, and the end of any one is noticed, and
so is one that makes no progress.

A part that is stuck does not end the program by itself: whether a new start helps is for whoever reads its health.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import structlog

from feature_sync.core.errors import PartEnded
from feature_sync.core.progress import Progress

_log = structlog.get_logger(__name__)


class Part(Protocol):
    """A part of the program, which runs until it is stopped."""

    def run(self) -> None:
        """Runs until `stop`; returns earlier only with an exception. Calls `report_progress` whenever it goes on."""
        ...

    def stop(self) -> None:
        """Makes `run` end soon. Callable from any thread."""
        ...


@dataclass(frozen=True, kw_only=True)
class _Failure:
    part: str
    error: BaseException | None


class Threads:
    """A thread for each part, and the first part that ended by itself."""

    def __init__(self, parts: Mapping[str, Part], *, stuck_seconds: float, on_end: Callable[[], None]) -> None:
        """A part that reports nothing for `stuck_seconds` counts as stuck. `on_end` is called in the thread of a part
        that ends by itself."""
        self._parts = parts
        self._stuck_seconds = stuck_seconds
        self._on_end = on_end
        self._progress = {name: Progress() for name in parts}
        self._stuck: frozenset[str] = frozenset()
        self._threads: Sequence[threading.Thread] = [
            # A daemon, so that a hanging part cannot keep the process from ending.
            threading.Thread(target=self._run, args=(name, part), name=name, daemon=True)
            for name, part in parts.items()
        ]
        self._stopping = False
        self._failure: _Failure | None = None

    def start(self) -> None:
        """Starts all parts."""
        for thread in self._threads:
            thread.start()

    def problem(self) -> str:
        """Which part has ended, or for how long one has made no progress; empty while all are at work. Callable from
        any thread."""
        ended = [f"{thread.name} has ended" for thread in self._threads if not thread.is_alive()]
        silent = self.silent_seconds()
        stuck = [f"{name} has made no progress for {silent[name]:.0f} s" for name in sorted(self._stuck_now(silent))]
        return "; ".join([*ended, *stuck])

    def silent_seconds(self) -> dict[str, float]:
        """Seconds without progress, by part. Callable from any thread."""
        return {name: progress.silent_seconds for name, progress in self._progress.items()}

    def log_stuck(self) -> None:
        """Logs each part that is stuck, once, and each that goes on. Call it every second or so, in one thread."""
        silent = self.silent_seconds()
        stuck = self._stuck_now(silent)
        for name in sorted(stuck - self._stuck):
            _log.error("part_stuck", part=name, silent_seconds=round(silent[name], 1))
        for name in sorted(self._stuck - stuck):
            _log.info("part_goes_on", part=name)
        self._stuck = stuck

    def _stuck_now(self, silent_seconds: Mapping[str, float]) -> frozenset[str]:
        return frozenset(name for name, seconds in silent_seconds.items() if seconds > self._stuck_seconds)

    def stop(self, grace_seconds: float) -> None:
        """Tells all parts to stop, and waits for them."""
        self._stopping = True
        for part in self._parts.values():
            part.stop()
        give_up_at = time.monotonic() + grace_seconds
        for thread in self._threads:
            thread.join(max(0.0, give_up_at - time.monotonic()))
        if hanging := [thread.name for thread in self._threads if thread.is_alive()]:
            _log.warning("parts_do_not_stop", parts=hanging)

    def raise_failure(self) -> None:
        """Raises PartEnded if a part ended by itself."""
        if self._failure is not None:
            raise PartEnded(f"{self._failure.part} ended: {self._failure.error!r}") from self._failure.error

    def _run(self, name: str, part: Part) -> None:
        error: BaseException | None = None
        self._progress[name].begin()
        try:
            part.run()
        except Exception as exception:
            error = exception
            _log.exception("part_failed", part=name)
        if not self._stopping and self._failure is None:
            self._failure = _Failure(part=name, error=error)
            self._on_end()
