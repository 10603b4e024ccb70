"""How far a consumer is behind its stream."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Lag:
    """What lies in a stream and is not applied yet."""

    num_entries: int
    oldest_seconds: float
    """Age of the oldest such entry; 0 where there is none."""
