"""What the worker counts about itself. Plain numbers: `metrics` shows them to Prometheus, GetServingStatus to callers.

Counted on the event loop's thread only, so nothing is locked. Prometheus' own counters cost about 2 microseconds an
observation, eight times what these do, and a request makes about ten.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections import Counter
from dataclasses import dataclass
from typing import Final

from inference_server.degradation import Degraded, Source

SECONDS_BOUNDS: Final = (0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0)
"""Upper bounds of the latency buckets, in seconds: whole requests take 0.5 ms to 1 s, single stages less."""
BATCH_BOUNDS: Final = (1, 2, 4, 8, 16, 32, 64, 128, 256)
"""Upper bounds of the store's batch sizes, in users."""

STAGES: Final = ("admit", "hydrate", "encode_user", "retrieve", "fallback", "select", "answer")
STORE: Final = "store"
REGISTRY: Final = "registry"


class Histogram:
    """Counts of observations by bucket."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        """Adds one observation."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

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
        self.stage_seconds = {stage: Histogram(SECONDS_BOUNDS) for stage in STAGES}
        self.answers_by_source: Counter[Source] = Counter(dict.fromkeys(Source, 0))
        self.degraded_by_reason: Counter[Degraded] = Counter(dict.fromkeys(Degraded, 0))
        self.store_batch_users = Histogram(BATCH_BOUNDS)
        self.user_tower_runs = 0
        self.bundle_swaps = 0
        self.refusals_by_kind: Counter[str] = Counter()
        self.last_refusal = ""
        self.dependencies_up: dict[str, bool] = {}

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
    """Measures the stages of one request: each `lap` is the time since the one before."""

    __slots__ = ("_lap_at", "_statistics")

    def __init__(self, statistics: Statistics) -> None:
        self._statistics = statistics
        self._lap_at = time.perf_counter()

    def lap(self, stage: str) -> None:
        """Ends the stage that ran until now."""
        now = time.perf_counter()
        self._statistics.stage_seconds[stage].observe(now - self._lap_at)
        self._lap_at = now
