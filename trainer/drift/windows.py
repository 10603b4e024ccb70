"""Which events are compared: the days of the two windows, and the users who are drawn from each.

Days are those of the calendar: events that ended years before the first live one, or that have no time, are no
reference for what is normal now.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

import numpy as np
import numpy.typing as npt

from trainer.core.errors import ConfigError
from trainer.dataset.dataset import Dataset

MICROSECONDS_OF_DAY: Final = 86_400_000_000
_SEPARATOR: Final = ".."


@dataclass(frozen=True)
class Span:
    """A part of time, in microseconds since 1970."""

    start: int
    end: int
    """The first moment that is not in it."""

    def __str__(self) -> str:
        """As `parse_span` reads it."""
        return f"{_iso(self.start)}{_SEPARATOR}{_iso(self.end)}"


@dataclass(frozen=True)
class Window:
    """The events of a data set in a part of time."""

    dataset: Dataset
    span: Span


@dataclass(frozen=True, kw_only=True)
class Windows:
    """What is compared. Both are often windows of one data set."""

    reference: Window
    recent: Window


@dataclass(frozen=True, kw_only=True)
class Sample:
    """Users drawn among those who did something in a window, with all that they did up to its end."""

    known: Dataset
    """The events before the end of the window, of all users."""
    users: npt.NDArray[np.int64]
    """(n,) int64, rows of the users who were drawn; ascending."""
    events: npt.NDArray[np.int64]
    """(m,) int64, places in `known` of what they did in the window; ascending."""


def parse_span(text: str) -> Span:
    """FROM..UNTIL, ISO 8601, UTC where no offset is given. Raises ConfigError."""
    first, separator, last = text.partition(_SEPARATOR)
    try:
        span = Span(_microseconds(first), _microseconds(last))
    except ValueError as error:
        raise ConfigError(f"{text}: {error}; write FROM..UNTIL, for example 2026-01-01..2026-01-29") from error
    if not separator or span.start >= span.end:
        raise ConfigError(f"{text}: write FROM..UNTIL, where FROM comes first")
    return span


def newest_days(dataset: Dataset, num_days: int) -> Window:
    """The day of the newest event, in UTC, and the days before it, `num_days` in all."""
    end = (int(dataset.event_times.max()) // MICROSECONDS_OF_DAY + 1) * MICROSECONDS_OF_DAY
    return Window(dataset, Span(end - num_days * MICROSECONDS_OF_DAY, end))


def days_before(dataset: Dataset, num_days: int, *, end: int) -> Window | None:
    """The `num_days` days before a moment; None where no event lies in them."""
    span = Span(end - num_days * MICROSECONDS_OF_DAY, end)
    is_empty = not ((dataset.event_times >= span.start) & (dataset.event_times < end)).any()
    return None if is_empty else Window(dataset, span)


def whole(dataset: Dataset) -> Window:
    """All events of a data set."""
    return Window(dataset, Span(int(dataset.event_times.min()), int(dataset.event_times.max()) + 1))


def draw_sample(window: Window, *, max_users: int, seed: int) -> Sample:
    """At most `max_users` of the users with an event in a window."""
    known = window.dataset.subset(window.dataset.event_times < window.span.end)
    inside = known.event_times >= window.span.start
    user_rows = known.user_rows
    active = np.unique(user_rows[inside])
    users = np.sort(np.random.default_rng(seed).permutation(active)[:max_users])
    return Sample(known=known, users=users, events=np.flatnonzero(inside & np.isin(user_rows, users)))


def _microseconds(text: str) -> int:
    moment = datetime.fromisoformat(text)
    aware = moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
    return round(aware.timestamp() * 1_000_000)


def _iso(microseconds: int) -> str:
    return datetime.fromtimestamp(microseconds / 1_000_000, UTC).replace(tzinfo=None).isoformat()
