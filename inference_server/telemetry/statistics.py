"""What the worker counts about itself. Plain numbers: `metrics` shows them to Prometheus, GetServingStatus to callers.

Counted on the event loop's thread only, so nothing is locked. Prometheus' own counters cost about 2 microseconds an
observation, eight times what these do, and a request makes about ten.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from inference_server.core.breaker import Breaker
from inference_server.core.degradation import Degraded, Source

SECONDS_BOUNDS: Final = (0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0)
"""Upper bounds of the latency buckets, in seconds: whole requests take 0.5 ms to 1 s, single stages less."""
BATCH_BOUNDS: Final = (1, 2, 4, 8, 16, 32, 64, 128, 256)
"""Upper bounds of the sizes of micro-batches, in requests."""

LIVE_LAG_BOUNDS: Final = (0.25, 0.5, 1.0, 2.0, 3.0, 5.0, 10.0, 30.0, 60.0, 300.0)
"""Upper bounds of the time until a change of the catalogue takes effect, in seconds."""

STAGES: Final = ("admit", "hydrate", "encode_user", "filter", "retrieve", "rank", "fallback", "select", "answer")
STORE: Final = "store"
REGISTRY: Final = "registry"
EVENTS: Final = "events"


class Histogram:
    """Counts of observations by bucket."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float, times: int = 1) -> None:
        """Adds an observation, made so many times."""
        self.counts[bisect_left(self.bounds, value)] += times
        self.total += value * times

    @property
    def count(self) -> int:
        """Number of observations."""
        return sum(self.counts)


@dataclass(frozen=True, kw_only=True)
class WorkerIdentity:
    """Which worker counts."""

    worker: int = 1
    """1 to `num_workers`; a restarted worker has the number of the one before."""
    num_workers: int = 1


class Statistics:
    """Everything counted since the worker's start."""

    def __init__(self, identity: WorkerIdentity | None = None) -> None:
        self.identity = identity or WorkerIdentity()
        self.started_at_seconds = time.time()
        self.requests_by_code: Counter[str] = Counter()
        self.request_seconds = Histogram(SECONDS_BOUNDS)
        self.http_requests_by_status: Counter[str] = Counter()
        self.http_request_seconds = Histogram(SECONDS_BOUNDS)
        self.stage_seconds = {stage: Histogram(SECONDS_BOUNDS) for stage in STAGES}
        self.answers_by_source: Counter[Source] = Counter(dict.fromkeys(Source, 0))
        self.degraded_by_reason: Counter[Degraded] = Counter(dict.fromkeys(Degraded, 0))
        self.batch_requests = Histogram(BATCH_BOUNDS)
        self.queue_seconds = Histogram(SECONDS_BOUNDS)
        self.queue_requests = 0
        self.dropped_requests = 0
        self.breakers: dict[str, str] = {}
        """States by name, see `watch`."""
        self.user_tower_runs = 0
        self.bundle_swaps = 0
        self.refusals_by_kind: Counter[str] = Counter()
        self.last_refusal = ""
        self.dependencies_up: dict[str, bool] = {}
        self.files_reloaded: Counter[str] = Counter()
        self.files_refused: Counter[str] = Counter()
        self.num_unauthenticated = 0
        self.num_dropped: Counter[str] = Counter()
        self.policies_fingerprint = ""
        self.write_calls_by_code: Counter[str] = Counter()
        self.write_call_seconds = Histogram(SECONDS_BOUNDS)
        """RecordEvents, UpsertItems and DeleteItems, apart from the calls that somebody waits for a page with."""
        self.events_appended: Counter[str] = Counter()
        self.writes_refused: Counter[str] = Counter()
        self.append_seconds = Histogram(SECONDS_BOUNDS)
        self.stream_backlog: dict[str, int] = {}
        self.live_lag_seconds = Histogram(LIVE_LAG_BOUNDS)
        """From a change of the catalogue to its effect in this worker."""
        self.live_catalogue_state: dict[str, float] = {}
        """See `live.follower.LiveFollower.bring_up_to_date`."""
        self._sources: list[Callable[[], None]] = []

    def add_source(self, bring_up_to_date: Callable[[], None]) -> None:
        """Names who brings numbers up to date that others count, some of them in other threads."""
        self._sources.append(bring_up_to_date)

    def refresh(self) -> None:
        """Brings everything up to date. To be called before numbers are shown."""
        for bring_up_to_date in self._sources:
            bring_up_to_date()

    def watch(self, breaker: Breaker) -> None:
        """Takes in the state of a breaker; meant to be its `on_change` too."""
        self.breakers[breaker.name] = str(breaker.state)

    def count_answer(self, source: Source, degraded_reasons: tuple[Degraded, ...]) -> None:
        """Counts one answer."""
        self.answers_by_source[source] += 1
        for reason in degraded_reasons:
            self.degraded_by_reason[reason] += 1

    def count_refusal(self, reason_kind: str, reason: str) -> None:
        """Counts one refused bundle."""
        self.refusals_by_kind[reason_kind] += 1
        self.last_refusal = f"{reason_kind}: {reason}"


class StageClock:
    """Measures the stages of one batch: each `lap` is the time since the one before, for every request in it."""

    __slots__ = ("_lap_at", "_requests", "_statistics", "_traced")

    def __init__(
        self, statistics: Statistics, requests: int, traced: Sequence[list[tuple[str, int, int]]] = ()
    ) -> None:
        """`traced` are the lists to which every stage is added: its name, start and end in nanoseconds since 1970."""
        self._statistics = statistics
        self._requests = requests
        self._traced = traced
        self._lap_at = time.perf_counter()

    def lap(self, stage: str) -> None:
        """Ends the stage that ran until now."""
        now = time.perf_counter()
        self._statistics.stage_seconds[stage].observe(now - self._lap_at, self._requests)
        if self._traced:
            ended_at_ns = time.time_ns()
            lap = (stage, ended_at_ns - int((now - self._lap_at) * 1e9), ended_at_ns)
            for laps in self._traced:
                laps.append(lap)
        self._lap_at = now
