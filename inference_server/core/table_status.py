"""What is in force of the experiments, for GetServingStatus, the metrics and the log."""

from __future__ import annotations

import time
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class TableStatus:
    """Where the table in force comes from."""

    source: str = ""
    """`file` or `unleash`; `disk`: the last known table, not confirmed since the start; empty: there is none."""
    fingerprint: str = ""
    confirmed_at_seconds: float = 0.0
    """When the source last said that this is the table, seconds since 1970; 0: never."""
    refusal: str = ""
    """Why the newest table is not in force; empty: it is."""
    num_refused: int = 0
    """Tables refused since the start."""
    experiments: tuple[str, ...] = ()
    """Names, in the order of the layers."""

    @property
    def age_seconds(self) -> float:
        """Time since the source last confirmed the table; 0 without one."""
        return max(0.0, time.time() - self.confirmed_at_seconds) if self.confirmed_at_seconds else 0.0
