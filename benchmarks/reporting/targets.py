"""The target of each scenario, shown above its results in the report. Measurements do not depend on it."""

from __future__ import annotations

from typing import Final

TARGETS: Final = {
    "throughput": "P99 below 50 ms",
    "latency": "P99 below 50 ms",
    "steady": "P99 below 50 ms, no error, no degraded answer",
    "hot_swap": "no error, P99 around the swap as outside of it",
    "store_killed": "no error, every answer within the deadline",
    "registry_down": "no error, no degraded answer",
    "worker_killed": "errors on the lost connections only",
    "overload": "goodput as at capacity, P99 of accepted below 50 ms",
    "filters": "median as unfiltered",
}
