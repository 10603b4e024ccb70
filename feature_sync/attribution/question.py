"""What a report of attribution is asked for, and where it lies."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final

from feature_sync.core.errors import SettingsError

REPORT: Final = "attribution"
"""Folder of the report below the data folder, where no other is named."""
EVENTS_FILE: Final = "events.parquet"
"""Of a report: a row for each event."""
USERS: Final = "users"
"""Of a report: the folder of the tables of users."""
SLOW_MS: Final = 25.0
"""Half of the time that a server gives itself for an answer unless TANDEM_DEADLINE_MS says otherwise."""
MICROSECONDS: Final = 1_000_000
_DAY_SECONDS: Final = 24 * 3600


@dataclass(frozen=True, kw_only=True)
class Question:
    """What is asked. Times are UTC."""

    impressions: Path
    """Folder of the archive of impressions."""
    events: Path
    """Folder of the archive of events."""
    start: datetime
    """Answers that were sent at this time or later."""
    end: datetime
    """Answers that were sent before this time."""
    window_seconds: float = 7 * _DAY_SECONDS
    """Longest time between an answer and what came of it."""
    lookback_seconds: float = 28 * _DAY_SECONDS
    """How far back users' behaviour before an experiment is read, for CUPED."""
    slow_ms: float = SLOW_MS
    """An answer that took the server longer is slow, in milliseconds."""
    session_key: str = "sessionId"
    """Key of the request's context that tells anonymous users apart, Unleash's own by default."""
    plans: Path | None = None
    """File of the plans of experiments; None: their arms are expected to have equal shares."""

    def __post_init__(self) -> None:
        """Raises SettingsError for an empty period."""
        if self.end <= self.start:
            raise SettingsError(f"--to: {self.end.isoformat()} must be after --from, {self.start.isoformat()}")

    @property
    def start_us(self) -> int:
        """Microseconds since 1970."""
        return int(self.start.timestamp()) * MICROSECONDS

    @property
    def end_us(self) -> int:
        """Microseconds since 1970."""
        return int(self.end.timestamp()) * MICROSECONDS

    @property
    def window_us(self) -> int:
        """Microseconds."""
        return int(self.window_seconds * MICROSECONDS)

    @property
    def read_from_us(self) -> int:
        """The earliest answers that are read: events of the period may be owed to them. Microseconds since 1970."""
        return self.start_us - int(max(self.lookback_seconds, self.window_seconds) * MICROSECONDS)

    @property
    def read_until_us(self) -> int:
        """Up to when answers and events are read: the last answers' window. Microseconds since 1970."""
        return self.end_us + self.window_us
