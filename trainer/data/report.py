"""What cleaning found: per file, how many rows were read, kept and dropped for which reason, and the first bad lines.

Blank lines are not rows. A row is dropped for one reason, the first that applies in the order of `DROP_KINDS`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
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
UNPARSABLE_RATING: Final = "unparsable_rating"
RATING_OUT_OF_RANGE: Final = "rating_out_of_range"
UNPARSABLE_TIMESTAMP: Final = "unparsable_timestamp"
UNPARSABLE_POSITION: Final = "unparsable_position"
UNKNOWN_EVENT_TYPE: Final = "unknown_event_type"
BELOW_MIN_RATING: Final = "below_min_rating"
DUPLICATE: Final = "duplicate"
USER_BELOW_CORE: Final = "user_below_k_core"
ITEM_BELOW_CORE: Final = "item_below_k_core"
USER_WITHOUT_INTERACTIONS: Final = "user_without_interactions"
IMPRESSION: Final = "impression"
SUPERSEDED: Final = "superseded"

BAD_KINDS: Final = {
    BAD_JSON: "not one JSON object in UTF-8, or a line of more than 16 MiB",
    BAD_CSV: "not as many fields as columns, a broken quote, or bytes of another encoding",
    MISSING_USER: "no user id",
    MISSING_ITEM: "no item id",
    MISSING_RATING: "no rating",
    MISSING_TIMESTAMP: "no timestamp",
    MISSING_POSITION: "no position",
    ID_TOO_LONG: "an id of more than 256 bytes",
    UNPARSABLE_RATING: "a rating that is not a number",
    RATING_OUT_OF_RANGE: "a rating outside the scale",
    UNPARSABLE_TIMESTAMP: "a timestamp that is not a time from 1970 to 2100 in the unit configured",
    UNPARSABLE_POSITION: "a position that is not a number",
    UNKNOWN_EVENT_TYPE: "an event type that the configuration does not map",
}
"""Kinds of bad lines, and what they mean. More of them than `max_bad_share` fails the run."""

DROP_KINDS: Final = {
    **BAD_KINDS,
    BELOW_MIN_RATING: "a rating below min_rating",
    DUPLICATE: "repeats an earlier row: same user and item, or same id; the first is kept",
    USER_BELOW_CORE: "of a user with fewer than k_core interactions with what is kept",
    ITEM_BELOW_CORE: "of an item with fewer than k_core interactions with who is kept",
    USER_WITHOUT_INTERACTIONS: "a user of whom no interaction was kept",
    IMPRESSION: "an impression: who was shown an item has not chosen it",
    SUPERSEDED: "a change of an item that was changed again later",
}
"""Everything a row can be dropped for. The ones that are not bad are expected in good data."""

ITEM_WITHOUT_METADATA: Final = "item_without_metadata"
USER_WITHOUT_FEATURES: Final = "user_without_features"
PRICE_UNPARSABLE: Final = "price_unparsable"
CATEGORY_IS_MARKUP: Final = "category_is_markup"
FROM_EVENTS: Final = "from_events"
ITEM_CHANGED: Final = "item_changed"

NOTE_KINDS: Final = {
    ITEM_WITHOUT_METADATA: "interactions kept whose item the items file does not have",
    USER_WITHOUT_FEATURES: "users kept whom the users file does not have",
    PRICE_UNPARSABLE: "items kept without their price, which is no number",
    CATEGORY_IS_MARKUP: "items kept without some categories, which are HTML or sentences",
    FROM_EVENTS: "rows read that are events which feature_sync kept, not lines of the file",
    ITEM_CHANGED: "items kept of which a change of the catalogue says something else than the file",
}
"""What was seen and kept."""

MAX_BAD_LINES_KEPT: Final = 20


@dataclass(frozen=True, kw_only=True)
class BadLine:
    """One bad line."""

    line: int
    """Line of the (unzipped) file, from 1; of Parquet, the row."""
    kind: str
    text: str
    """The beginning of the line."""


@dataclass(frozen=True, kw_only=True)
class FileReport:
    """What cleaning found in one file."""

    role: str
    """"interactions", "items", "users", "events" or "item changes"."""
    path: str
    rows_read: int
    rows_kept: int
    dropped: Mapping[str, int]
    """Kind -> rows; only kinds that occurred."""
    noted: Mapping[str, int]
    """Kind of `NOTE_KINDS` -> count; only kinds that occurred."""
    bad_lines: tuple[BadLine, ...]
    """The first `MAX_BAD_LINES_KEPT`, in order."""

    def __post_init__(self) -> None:
        assert self.rows_read == self.rows_kept + sum(self.dropped.values()), self

    @property
    def rows_bad(self) -> int:
        """Rows dropped because they were bad."""
        return sum(count for kind, count in self.dropped.items() if kind in BAD_KINDS)

    def to_text(self) -> str:
        """The report as lines of text."""
        lines = [f"{self.role}: {self.path}", f"  {self.rows_read:>12,}  rows read"]
        lines += [
            f"  {count:>12,}  dropped: {kind} ({DROP_KINDS[kind]})"
            for kind, count in sorted(self.dropped.items(), key=lambda entry: -entry[1])
        ]
        lines.append(f"  {self.rows_kept:>12,}  rows kept")
        lines += [f"  {count:>12,}  noted: {kind} ({NOTE_KINDS[kind]})" for kind, count in sorted(self.noted.items())]
        if self.bad_lines:
            lines.append(f"  first {len(self.bad_lines)} of {self.rows_bad:,} bad lines:")
            lines += [f"    line {bad.line}: {bad.kind}: {bad.text}" for bad in self.bad_lines]
        return "\n".join(lines)

    def check_bad_share(self, max_bad_share: float) -> None:
        """Raises DataError, with the report, when too many lines are bad or there are none at all."""
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
    """What cleaning found in all files of one data set."""

    files: tuple[FileReport, ...]

    def file(self, role: str) -> FileReport:
        """The report of one file. Raises KeyError when the data set has none of that role."""
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
        """What `to_dict` returned, as a report. Raises KeyError or TypeError on anything else."""
        return cls(
            files=tuple(
                FileReport(**{**file, "bad_lines": tuple(BadLine(**bad) for bad in file["bad_lines"])})
                for file in raw["files"]
            )
        )
