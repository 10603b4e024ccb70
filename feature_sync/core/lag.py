"""How far a consumer is behind its stream."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Lag:
    """The entries of a stream that are not applied yet."""

    num_entries: int
    oldest_seconds: float
    """Age of the oldest of these entries; 0 if there is none."""
