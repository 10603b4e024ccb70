"""The parts of `feature_sync run`: each has a thread, all are stopped together, and the end of any one is noticed."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import structlog

from feature_sync.core.errors import PartEnded

_log = structlog.get_logger(__name__)


class Part(Protocol):
    """A part of the program, which runs until it is stopped."""

    def run(self) -> None:
        """Runs until `stop`; returns earlier only with an exception."""
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

    def __init__(self, parts: Mapping[str, Part], *, on_end: Callable[[], None]) -> None:
        """`on_end` is called in the thread of a part that ends by itself."""
        self._parts = parts
        self._on_end = on_end
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

    def are_all_at_work(self) -> bool:
        """Whether no part has ended."""
        return all(thread.is_alive() for thread in self._threads)

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
        try:
            part.run()
        except Exception as exception:
            error = exception
            _log.exception("part_failed", part=name)
        if not self._stopping and self._failure is None:
            self._failure = _Failure(part=name, error=error)
            self._on_end()
