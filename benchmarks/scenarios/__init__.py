"""The scenarios: each takes a `Bench`, measures one thing, and returns its part of the report."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

from benchmarks.environment.bench import Bench
from benchmarks.scenarios.events import hot_swap, registry_down, store_killed, worker_killed
from benchmarks.scenarios.filters import filters
from benchmarks.scenarios.latency import latency
from benchmarks.scenarios.overload import overload
from benchmarks.scenarios.steady import steady
from benchmarks.scenarios.throughput import throughput

Scenario = Callable[[Bench], Awaitable[dict[str, Any]]]

SCENARIOS: Final[Mapping[str, Scenario]] = {
    "throughput": throughput,
    "latency": latency,
    "steady": steady,
    "hot_swap": hot_swap,
    "store_killed": store_killed,
    "registry_down": registry_down,
    "worker_killed": worker_killed,
    "overload": overload,
    "filters": filters,
}
"""In the order of running: `overload` reads the capacity that `throughput` measured."""
