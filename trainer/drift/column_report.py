"""A comparison of two tables, column by column."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class ColumnReport:
    """The distance between two tables in each column, with its limit."""

    distances: Mapping[str, float]
    limits: Mapping[str, float]
    drifted: tuple[str, ...]
    """Columns whose distance is at least their limit."""

    @classmethod
    def of(cls, distances: Mapping[str, float], limits: Mapping[str, float]) -> ColumnReport:
        """Makes a report from a distance and a limit for each column."""
        drifted = tuple(name for name, distance in distances.items() if distance >= limits[name])
        return cls(distances=distances, limits=limits, drifted=drifted)

    @property
    def drifted_share(self) -> float:
        """Share of columns that drifted."""
        return len(self.drifted) / len(self.distances)
