"""Statistics on their way from the workers to the supervisor: as plain values, and added up.

Works on whatever fields `Statistics` has, by what they hold, so that a new counter or histogram needs no line here:

    whole number, float       counters: added
    Histogram                 added bucket by bucket
    Counter, dict             added key by key
    bool                      a state, such as "up": true where it is true in every worker
    str inside a dict         a state: the alphabetically last, so that "open" shows before "half_open" and "closed"

Of a `..._backlog` or `..._state`, numbers that all workers look at, the largest is shown. Points in time
(`..._at_seconds`) and texts stay with the worker.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any, Final

from inference_server.telemetry.statistics import Histogram, Statistics

Plain = Mapping[str, Any]
"""A snapshot that JSON can carry."""

_NOT_SUMMED: Final = "_at_seconds"
_SHARED_STATE: Final = ("_backlog", "_state")


def to_plain(statistics: Statistics) -> Plain:
    """What was counted, as JSON can carry it."""
    statistics.refresh()
    values: dict[str, Any] = {}
    for name, value in vars(statistics).items():
        if not name.endswith(_NOT_SUMMED) and isinstance(value, int | float | Histogram | dict):
            values[name] = _encode(value)
    return values


def add(statistics: Statistics, snapshot: Plain) -> None:
    """Adds a snapshot to `statistics`. A field that this version does not have is passed over."""
    for name, value in snapshot.items():
        if name.endswith(_SHARED_STATE):
            largest = getattr(statistics, name, {})
            for key, level in _decode(value).items():
                largest[key] = max(largest.get(key, 0), level)
        elif hasattr(statistics, name):
            setattr(statistics, name, _sum(getattr(statistics, name), _decode(value)))


def counts_alone(snapshot: Plain) -> Plain:
    """A snapshot without states: what remains true of a worker that has ended."""
    return {
        name: kept
        for name, value in snapshot.items()
        if not name.endswith(_SHARED_STATE) and (kept := _without_states(value)) is not None
    }


def _encode(value: Any) -> Any:
    if isinstance(value, Histogram):
        return {"bounds": value.bounds, "counts": list(value.counts), "total": value.total}
    if isinstance(value, dict):
        # Pairs, because a key may be more than a text.
        return {"pairs": [[key, _encode(item)] for key, item in value.items()]}
    return value


def _decode(value: Any) -> Any:
    if not isinstance(value, Mapping):
        return value
    if "counts" in value:
        histogram = Histogram(tuple(value["bounds"]))
        histogram.counts = list(value["counts"])
        histogram.total = value["total"]
        return histogram
    return {tuple(key) if isinstance(key, list) else key: _decode(item) for key, item in value["pairs"]}


def _sum(left: Any, right: Any) -> Any:
    if isinstance(left, Histogram):
        left.counts = [a + b for a, b in zip(left.counts, right.counts, strict=True)]
        left.total += right.total
        return left
    if isinstance(left, Counter):
        # Enumerated and plain texts are the same keys, and Counter.update adds.
        left.update(right)
        return left
    if isinstance(left, dict):
        for key, item in right.items():
            left[key] = _sum(left[key], item) if key in left else item
        return left
    if isinstance(left, bool):
        return left and right
    if isinstance(left, str):
        return max(left, right)
    return left + right


def _without_states(value: Any) -> Any:
    if isinstance(value, bool | str):
        return None
    if isinstance(value, Mapping) and "pairs" in value:
        kept = [[key, item] for key, old in value["pairs"] if (item := _without_states(old)) is not None]
        return {"pairs": kept}
    return value
