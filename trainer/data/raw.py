"""Output of the readers, which cleaning takes: tables of text, in the same form for every source format."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from trainer.data.config import TimestampUnit
from trainer.data.scan import Scan

DEFECT: Final = "defect"
"""Column of a raw table: why the reader could not read the row (one of `report.BAD_KINDS`), or null."""
EXCERPT: Final = "excerpt"
"""Column of a raw table: the row as text, for the report."""
POSITION: Final = "position"


def feature_columns(num_features: int) -> tuple[str, ...]:
    """Columns of the user features in raw and staged tables. The features' own names may be those of other columns."""
    return tuple(f"feature_{index}" for index in range(num_features))


@dataclass(frozen=True, kw_only=True)
class InteractionRules:
    """Meaning of the text in a raw table of interactions. Columns that the rules do not mention are null."""

    has_rating: bool
    timestamp_unit: TimestampUnit | None
    """None without timestamps."""
    has_position: bool
    has_weight: bool = False
    event_types: Mapping[str, str]
    """Value in the source -> one of names.EVENT_TYPES. Empty: the source has no event types."""
    default_event_type: str
    ignored_event_types: tuple[str, ...] = ()
    """Values in the source whose rows are dropped, not bad."""
    rated_event_type: str = ""
    """The only event type with a rating; empty if all event types have one."""


@dataclass(frozen=True, kw_only=True)
class RawTable:
    """A file as a reader returns it. No row is dropped yet."""

    role: str
    scan: Scan
    rows: Any
    """Ibis table: ROW int64, DEFECT and EXCERPT string, and

    - interactions: USER_ID, ITEM_ID, RATING, TIMESTAMP, POSITION, EVENT_TYPE, WEIGHT of `names`, all nullable strings;
    - items: ITEM_ID nullable string, TITLE and DESCRIPTION string, CATEGORIES list and ATTRIBUTES map of strings;
    - users: USER_ID and `feature_columns`, nullable strings.
    """
    notes: tuple[str, ...] = ()
    """Boolean columns of `rows`, named after the kinds of `report.NOTE_KINDS` whose rows they mark."""


@dataclass(frozen=True, kw_only=True)
class RawData:
    """The tables of a data set as a reader returns them."""

    interactions: RawTable
    rules: InteractionRules
    items: RawTable | None = None
    users: RawTable | None = None
    feature_names: tuple[str, ...] = ()
    """Names of the features, in the order of `feature_columns`."""
