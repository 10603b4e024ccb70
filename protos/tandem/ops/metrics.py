"""How a program declares its Prometheus metrics: once, in the annotation of the attribute that counts.

    class Statistics:
        user_tower_runs: Annotated[int, Metric("tandem_user_tower_runs", "User vectors computed.", Kind.COUNTER, ...)]

`declared` reads the annotations back. From them the program makes its counters and its /metrics page, and
`deploy.packaging.metrics_page` makes the reference page. Attributes stay plain numbers: counting costs an addition.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass
from enum import StrEnum
from functools import cache
from typing import get_type_hints


class Kind(StrEnum):
    """Type of a metric, in Prometheus' words."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


@dataclass(frozen=True)
class Metric:
    """One metric: what Prometheus and an operator read about it."""

    name: str
    """Without `_total`, which the page adds to the name of a counter."""
    help: str
    """The HELP line: what is counted or measured."""
    kind: Kind
    _: KW_ONLY
    unit: str
    """Unit of a value: "calls", "seconds"; "0 or 1" for a flag."""
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()
    """Upper bounds of a histogram's buckets, ascending, in `unit`; empty for other kinds."""
    investigate_when: str = ""
    """The reading that an operator should investigate, and where to begin; empty if no reading is bad by itself."""

    def __post_init__(self) -> None:
        """Raises ValueError where the parts of the declaration contradict each other."""
        if self.name.endswith("_total"):
            raise ValueError(f"{self.name}: the page adds _total")
        if bool(self.buckets) != (self.kind is Kind.HISTOGRAM):
            raise ValueError(f"{self.name}: a histogram needs buckets, other kinds have none")

    @property
    def exposed_name(self) -> str:
        """The name that queries use; a histogram's is the stem of its `_bucket`, `_sum` and `_count`."""
        return f"{self.name}_total" if self.kind is Kind.COUNTER else self.name


def declared(table: type) -> Mapping[str, Metric]:
    """The metrics that a class and its bases declare, by attribute, in the order of declaration."""
    return _declared(table)


@cache
def _declared(table: type) -> Mapping[str, Metric]:
    # Separate from `declared`, because mypy mistakes a class that is passed to a cached function for an instance.
    return {
        attribute: metadata
        for attribute, annotation in get_type_hints(table, include_extras=True).items()
        for metadata in getattr(annotation, "__metadata__", ())
        if isinstance(metadata, Metric)
    }
