"""The compared events: the days of the two windows, and the users drawn from each.

The days of the reference are the calendar days before the recent window: events that end years before, or that have no
time, do not show what is normal now.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

import numpy as np
import numpy.typing as npt

from tandem.ops.arguments import utc_moment
from trainer.core.errors import ConfigError
from trainer.dataset.dataset import Dataset

MICROSECONDS_OF_DAY: Final = 86_400_000_000
_SEPARATOR: Final = ".."


@dataclass(frozen=True)
class Span:
    """A time span, in microseconds since 1970."""

    start: int
    end: int
    """Exclusive."""

    def __str__(self) -> str:
        """The span as `parse_span` reads it."""
        return f"{_iso(self.start)}{_SEPARATOR}{_iso(self.end)}"


@dataclass(frozen=True)
class Window:
    """The events of a data set in a time span."""

    dataset: Dataset
    span: Span


@dataclass(frozen=True, kw_only=True)
class Windows:
    """The two compared windows, often of the same data set."""

    reference: Window
    recent: Window


@dataclass(frozen=True, kw_only=True)
class Sample:
    """Users drawn from those with an event in a window, with all events up to its end."""

    known: Dataset
    """The events before the end of the window, of all users."""
    users: npt.NDArray[np.int64]
    """(n,) int64, rows of the drawn users; ascending."""
    events: npt.NDArray[np.int64]
    """(m,) int64, indices in `known` of the drawn users' events in the window; ascending."""


def parse_span(text: str) -> Span:
    """Parses FROM..UNTIL, ISO 8601, UTC if no offset is given. Raises ConfigError for other text."""
    first, separator, last = text.partition(_SEPARATOR)
    try:
        span = Span(_microseconds(first), _microseconds(last))
    except ValueError as error:
        raise ConfigError(f"{text}: {error}; write FROM..UNTIL, for example 2026-01-01..2026-01-29") from error
    if not separator or span.start >= span.end:
        raise ConfigError(f"{text}: write FROM..UNTIL, where FROM is before UNTIL")
    return span


def newest_days(dataset: Dataset, num_days: int) -> Window:
    """The window of the `num_days` days, in UTC, that end with the day of the newest event."""
    end = (int(dataset.event_times.max()) // MICROSECONDS_OF_DAY + 1) * MICROSECONDS_OF_DAY
    return Window(dataset, Span(end - num_days * MICROSECONDS_OF_DAY, end))


def days_before(dataset: Dataset, num_days: int, *, end: int) -> Window | None:
    """The window of `num_days` days before `end`; None without an event in it."""
    span = Span(end - num_days * MICROSECONDS_OF_DAY, end)
    is_empty = not ((dataset.event_times >= span.start) & (dataset.event_times < end)).any()
    return None if is_empty else Window(dataset, span)


def whole(dataset: Dataset) -> Window:
    """The window of all events of a data set."""
    return Window(dataset, Span(int(dataset.event_times.min()), int(dataset.event_times.max()) + 1))


def draw_sample(window: Window, *, max_users: int, seed: int) -> Sample:
    """Draws at most `max_users` of the users with an event in a window."""
    known = window.dataset.subset(window.dataset.event_times < window.span.end)
    inside = known.event_times >= window.span.start
    user_rows = known.user_rows
    active = np.unique(user_rows[inside])
    users = np.sort(np.random.default_rng(seed).permutation(active)[:max_users])
    return Sample(known=known, users=users, events=np.flatnonzero(inside & np.isin(user_rows, users)))


def _microseconds(text: str) -> int:
    return round(utc_moment(text).timestamp() * 1_000_000)


def _iso(microseconds: int) -> str:
    return datetime.fromtimestamp(microseconds / 1_000_000, UTC).replace(tzinfo=None).isoformat()
