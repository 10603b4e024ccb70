"""What a reader hands over to cleaning: tables of text, one form for every source format."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from trainer.data.config import TimestampUnit
from trainer.data.scan import Scan

DEFECT: Final = "defect"
"""Column of a raw table: why the reader could not read the row (a bad kind of `report`), or null."""
EXCERPT: Final = "excerpt"
"""Column of a raw table: the row as text, for the report."""
POSITION: Final = "position"


@dataclass(frozen=True, kw_only=True)
class InteractionRules:
    """What the text in a raw interaction table means. Which of its columns hold anything follows from this."""

    has_rating: bool
    timestamp_unit: TimestampUnit | None
    """None where there is no timestamp."""
    has_position: bool
    event_types: Mapping[str, str]
    """Value in the source -> one of names.EVENT_TYPES. Empty: there is no such column."""
    default_event_type: str
    rated_event_type: str = ""
    """The only event type that has a rating; empty where all have one."""


@dataclass(frozen=True, kw_only=True)
class RawTable:
    """What a reader made of one file. Nothing is dropped yet."""

    role: str
    scan: Scan
    rows: Any
    """Ibis table: ROW int64, DEFECT and EXCERPT string, and

    - interactions: USER_ID, ITEM_ID, RATING, TIMESTAMP, POSITION, EVENT_TYPE of `names`, all nullable strings;
    - items: ITEM_ID nullable string, TITLE and DESCRIPTION string, CATEGORIES list and ATTRIBUTES map of strings;
    - users: USER_ID and one nullable string per feature.
    """
    notes: tuple[str, ...] = ()
    """Boolean columns of `rows`, each named by the kind of `report.NOTE_KINDS` that it counts."""


@dataclass(frozen=True, kw_only=True)
class RawData:
    """What a reader hands over."""

    interactions: RawTable
    rules: InteractionRules
    items: RawTable | None = None
    users: RawTable | None = None
    feature_names: tuple[str, ...] = ()
