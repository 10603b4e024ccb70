"""A snapshot of the whole server, from which the metrics page is made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from inference_server.core.canary_status import CanaryStatus
from inference_server.core.table_status import TableStatus
from inference_server.supervisor.checked_bundle import CheckedBundle
from inference_server.supervisor.process_usage import ProcessUsage
from inference_server.supervisor.track import Track
from inference_server.telemetry.statistics import Statistics


@dataclass(frozen=True, kw_only=True)
class WorkerView:
    """A snapshot of one worker."""

    worker: int
    up: bool
    """Whether it listens, and answered the supervisor's request for this snapshot."""
    restarts: int
    usage: ProcessUsage | None
    """None while the worker has no process."""


@dataclass(frozen=True, kw_only=True)
class ServerView:
    """A snapshot of the server."""

    statistics: Statistics
    """Sums over all workers."""
    workers: Sequence[WorkerView] = ()
    serving: CheckedBundle | None = None
    """The bundle of the server's own model."""
    variant: str = ""
    """The alias that it serves under; empty for a bundle folder."""
    further: Sequence[Track] = ()
    """The models that shall answer beside it."""
    swap_window_seconds: float | None = None
    """None before the first bundle."""
    experiments: TableStatus = field(default_factory=TableStatus)
    canary: CanaryStatus = field(default_factory=CanaryStatus)
    canary_moves: Mapping[str, int] = field(default_factory=dict)
    """Moves of canaries that this server made or saw; empty: it follows no registry."""
    notifications: Mapping[str, int] = field(default_factory=dict)
    """Messages to people by outcome; empty: nobody is told."""
