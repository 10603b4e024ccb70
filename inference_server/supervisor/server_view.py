"""The whole server at one moment, as metrics show it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from inference_server.supervisor.checked_bundle import CheckedBundle
from inference_server.supervisor.process_usage import ProcessUsage
from inference_server.telemetry.statistics import Statistics


@dataclass(frozen=True, kw_only=True)
class WorkerView:
    """One worker as it is shown."""

    worker: int
    up: bool
    """Whether it answers, and answered the supervisor just now."""
    restarts: int
    usage: ProcessUsage | None
    """None while there is no process."""


@dataclass(frozen=True, kw_only=True)
class ServerView:
    """The server as it is shown."""

    statistics: Statistics
    """Sums over all workers."""
    workers: Sequence[WorkerView] = ()
    serving: CheckedBundle | None = None
    swap_window_seconds: float | None = None
    """None before the first bundle."""
