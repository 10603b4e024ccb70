"""Report of cleaning: for each file the numbers of rows read, kept and dropped by reason, and the first bad lines.

Blank lines are not rows. A row counts under one reason, the first in the order of `DROP_KINDS` that applies.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from trainer.core.errors import DataError

BAD_JSON: Final = "bad_json"
BAD_CSV: Final = "bad_csv"
MISSING_USER: Final = "missing_user"
MISSING_ITEM: Final = "missing_item"
MISSING_RATING: Final = "missing_rating"
MISSING_TIMESTAMP: Final = "missing_timestamp"
MISSING_POSITION: Final = "missing_position"
ID_TOO_LONG: Final = "id_too_long"
BAD_ID: Final = "bad_id"
ID_IMPRECISE: Final = "id_imprecise"
REPEATED_KEY: Final = "repeated_key"
REPEATED_HEADER: Final = "repeated_header"
UNPARSABLE_RATING: Final = "unparsable_rating"
RATING_OUT_OF_RANGE: Final = "rating_out_of_range"
UNPARSABLE_TIMESTAMP: Final = "unparsable_timestamp"
TIME_IMPRECISE: Final = "time_imprecise"
UNPARSABLE_POSITION: Final = "unparsable_position"
MISSING_WEIGHT: Final = "missing_weight"
UNPARSABLE_WEIGHT: Final = "unparsable_weight"
IGNORED_EVENT_TYPE: Final = "ignored_event_type"
UNKNOWN_EVENT_TYPE: Final = "unknown_event_type"
BELOW_MIN_RATING: Final = "below_min_rating"
DUPLICATE: Final = "duplicate"
MERGED: Final = "merged"
USER_BELOW_CORE: Final = "user_below_k_core"
ITEM_BELOW_CORE: Final = "item_below_k_core"
USER_WITHOUT_INTERACTIONS: Final = "user_without_interactions"
IMPRESSION: Final = "impression"
SUPERSEDED: Final = "superseded"
DELETED_USER: Final = "deleted_user"

BAD_KINDS: Final = {
    BAD_JSON: "not one JSON object in UTF-8, or a line of more than 16 MiB",
    BAD_CSV: "not as many fields as columns, a quote that is not closed, or bytes of another encoding",
    MISSING_USER: "no user id",
    MISSING_ITEM: "no item id",
    MISSING_RATING: "no rating",
    MISSING_TIMESTAMP: "no timestamp",
    MISSING_POSITION: "no position",
    ID_TOO_LONG: "an id of more than 256 bytes",
    BAD_ID: "an id that is an object, a list or in a list, or bytes that are not UTF-8",
    ID_IMPRECISE: "an id that is a floating-point number too large to hold all of its digits: write ids as texts",
    REPEATED_KEY: "a JSON object that has a key of the configuration twice",
    UNPARSABLE_RATING: 'a rating that is not a number; decimal = "," reads 4,5',
    RATING_OUT_OF_RANGE: "a rating outside the scale",
    UNPARSABLE_TIMESTAMP: (
        "a timestamp that is not a time from 1970 to 2100 in the unit configured; "
        'timestamp_unit = "auto" finds the unit'
    ),
    TIME_IMPRECISE: "a time that has lost its last digits, as 1.70001E+12 has in Excel: write all digits",
    UNPARSABLE_POSITION: "a position that is not a number",
    MISSING_WEIGHT: "no weight",
    UNPARSABLE_WEIGHT: "a weight that is not a finite number above 0, without separators of thousands",
    UNKNOWN_EVENT_TYPE: "an event type that the configuration does not map",
}
"""Kinds of bad lines, with descriptions. The run fails if their share exceeds `max_bad_share`."""

DROP_KINDS: Final = {
    **BAD_KINDS,
    REPEATED_HEADER: "the names of the columns again, as in joined files, or a line of dashes below them",
    IGNORED_EVENT_TYPE: "an event type in ignored_event_types",
    BELOW_MIN_RATING: "a rating below min_rating",
    DUPLICATE: "repeats an earlier row: same user and item, or same id; the first is kept",
    MERGED: "of a user and item with a stronger event (event_weights), which stands for both and counts both",
    USER_BELOW_CORE: "of a user with fewer than k_core interactions with kept items",
    ITEM_BELOW_CORE: "of an item with fewer than k_core interactions with kept users",
    USER_WITHOUT_INTERACTIONS: "a user without a kept interaction",
    IMPRESSION: "an impression: a user who was shown an item has not chosen it",
    SUPERSEDED: "a change of an item that changed again later",
    DELETED_USER: "of a user who was deleted (`feature_sync delete-user`), from before the deletion or without a time",
}
"""All reasons to drop a row. Good data may have rows of the kinds that are not in `BAD_KINDS`."""

ITEM_WITHOUT_METADATA: Final = "item_without_metadata"
USER_WITHOUT_FEATURES: Final = "user_without_features"
NO_LAST_END: Final = "no_last_line_end"
WHOLE_NUMBER_ID: Final = "whole_number_id"
PRICE_UNPARSABLE: Final = "price_unparsable"
TEXT_IS_SCRIPT: Final = "text_is_script"
CATEGORY_IS_MARKUP: Final = "category_is_markup"
FROM_EVENTS: Final = "from_events"
ITEM_CHANGED: Final = "item_changed"

NOTE_KINDS: Final = {
    ITEM_WITHOUT_METADATA: "kept interactions whose item is not in the items file",
    USER_WITHOUT_FEATURES: "kept users who are not in the users file",
    NO_LAST_END: "files whose last line has no end: if a file was cut, so was the last value of its last line",
    WHOLE_NUMBER_ID: "ids that are written as floating-point numbers (10.0, 1e+05) and read as integers",
    PRICE_UNPARSABLE: "items kept without their price, which is not a number",
    TEXT_IS_SCRIPT: "items kept without their title or description, which is JavaScript",
    CATEGORY_IS_MARKUP: "items kept without some of their categories, which are HTML or sentences",
    FROM_EVENTS: "rows read from events that feature_sync archived, not from the file",
    ITEM_CHANGED: "kept items whose content comes from a catalogue change, not from the file",
}
"""Conditions of kept rows that are reported."""

MAX_BAD_LINES_KEPT: Final = 20


@dataclass(frozen=True, kw_only=True)
class BadLine:
    """A bad line of a source file."""

    line: int
    """Line of the unzipped file, from 1; for Parquet, the row."""
    kind: str
    text: str
    """The beginning of the line, or what is wrong with it."""
    file: str = ""
    """Name of the file; empty if there is only one."""

    def to_text(self) -> str:
        """The line of the report."""
        where = f"{self.file}, line {self.line}" if self.file else f"line {self.line}"
        return f"    {where}: {self.kind}: {self.text}"


@dataclass(frozen=True, kw_only=True)
class FileReport:
    """Report of one file."""

    role: str
    """"interactions", "items", "users", "events" or "item changes"."""
    path: str
    rows_read: int
    rows_kept: int
    dropped: Mapping[str, int]
    """Kind -> number of rows; only kinds that occurred."""
    noted: Mapping[str, int]
    """Kind of `NOTE_KINDS` -> count; only kinds that occurred."""
    bad_lines: tuple[BadLine, ...]
    """The first `MAX_BAD_LINES_KEPT` bad lines, in order."""
    hints: tuple[str, ...] = ()
    """What to change so that bad lines become good."""
    merged: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    """Event type -> type of the stronger events that stand for them -> number of rows; only what occurred."""

    def __post_init__(self) -> None:
        assert self.rows_read == self.rows_kept + sum(self.dropped.values()), self

    @property
    def rows_bad(self) -> int:
        """Number of rows that were dropped as bad."""
        return sum(count for kind, count in self.dropped.items() if kind in BAD_KINDS)

    def to_text(self) -> str:
        """The report as lines of text."""
        lines = [f"{self.role}: {self.path}", f"  {self.rows_read:>12,}  rows read"]
        lines += [
            f"  {count:>12,}  dropped: {kind} ({DROP_KINDS[kind]})"
            for kind, count in sorted(self.dropped.items(), key=lambda entry: -entry[1])
        ]
        lines += [
            f"  {count:>12,}  of them: {event_type} into {standing}"
            for event_type, by_type in self.merged.items()
            for standing, count in by_type.items()
        ]
        lines.append(f"  {self.rows_kept:>12,}  rows kept")
        lines += [f"  {count:>12,}  noted: {kind} ({NOTE_KINDS[kind]})" for kind, count in sorted(self.noted.items())]
        if self.bad_lines:
            lines.append(f"  first {len(self.bad_lines)} of {self.rows_bad:,} bad lines:")
            lines += [bad.to_text() for bad in self.bad_lines]
        lines += [f"  hint: {hint}" for hint in self.hints]
        return "\n".join(lines)

    def check_bad_share(self, max_bad_share: float) -> None:
        """Raises DataError, with the report, if too many lines are bad or the file has no rows."""
        if self.rows_read == 0:
            raise DataError(f"{self.role}: {self.path}: the file has no rows")
        share = self.rows_bad / self.rows_read
        if share > max_bad_share:
            raise DataError(
                f"{share:.2%} of the lines of {self.path} are bad, more than max_bad_share = {max_bad_share:.2%}\n"
                + self.to_text()
            )


@dataclass(frozen=True, kw_only=True)
class CleaningReport:
    """Reports of all files of a data set."""

    files: tuple[FileReport, ...]

    def file(self, role: str) -> FileReport:
        """The report of the file with a role. Raises KeyError if the data set has no such file."""
        for report in self.files:
            if report.role == role:
                return report
        raise KeyError(role)

    def to_text(self) -> str:
        """The report as a readable table."""
        return "\n".join(report.to_text() for report in self.files)

    def to_dict(self) -> dict[str, Any]:
        """The report as JSON values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> CleaningReport:
        """Makes a report from the output of `to_dict`. Raises KeyError or TypeError for other values."""
        return cls(
            files=tuple(
                FileReport(
                    **{
                        **file,
                        "bad_lines": tuple(BadLine(**bad) for bad in file["bad_lines"]),
                        "hints": tuple(file["hints"]),
                    }
                )
                for file in raw["files"]
            )
        )
