"""Cleaning: selects the staged rows to keep and counts the others by reason, in Ibis expressions that any engine runs.

Rows below `min_rating` are dropped before pairs are merged (`pairs`), so a user who rated an item low first and high
later keeps the high rating. What a user rated low only is written to a file of its own: it is no choice, but the user
has seen it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import ibis

from tandem.contract import names
from trainer.core.errors import DataError
from trainer.data import report as kinds
from trainer.data.config import DataConfig
from trainer.data.engine import Engine, count_by, count_rows, write_counted
from trainer.data.item_changes import StagedChanges
from trainer.data.k_core import k_core
from trainer.data.pairs import ORDER, one_of_each_pair, rule_of
from trainer.data.raw import POSITION, feature_columns
from trainer.data.report import CleaningReport, FileReport
from trainer.data.scan import ROW
from trainer.data.stage import Staged, occurring
from trainer.data.text import empty_map, no_strings
from trainer.dataset.parquet import ColumnType, rewrite

INTERACTIONS_FILE: Final = "interactions.parquet"
ITEMS_FILE: Final = "items.parquet"
USERS_FILE: Final = "users.parquet"
LOW_RATED_FILE: Final = "low_rated.parquet"

INTERACTION_COLUMNS: Final[Mapping[str, ColumnType]] = {
    names.USER_ID: "string",
    names.ITEM_ID: "string",
    names.RATING: "float64",
    names.NORMALISED_RATING: "float64",
    names.TIMESTAMP: "int64",
    names.EVENT_TYPE: "string",
    names.WEIGHT: "float64",
    **dict.fromkeys(names.EVENT_COUNTS, "int64"),
    names.LAST_TIMESTAMP: "int64",
}
"""A row for each user and item, of the event that stands for all of them. `rating` has the scale of the source;
`normalised_rating` is scaled to 0 to 1. Both are null without a rating. `timestamp` is in microseconds, 0 if only the
order is known. `weight` is that of the event type, times that of the row if the source has weights. `num_click` and so
on count all events of the pair by type, and `last_timestamp` is the time of the last: they are not known yet at
`timestamp`."""
_LOW_RATED_COLUMNS: Final[Mapping[str, ColumnType]] = {
    names.USER_ID: "string",
    names.ITEM_ID: "string",
    names.NUM_EVENTS_BEFORE: "int64",
}
_ITEM_COLUMNS: Final[Mapping[str, ColumnType]] = {
    names.ITEM_ID: "string",
    names.TITLE: "string",
    names.DESCRIPTION: "string",
    names.CATEGORIES: "strings",
    names.ATTRIBUTES: "string_map",
    names.AVAILABLE: "bool",
}
_SOURCE_ITEM_COLUMNS: Final = tuple(name for name in _ITEM_COLUMNS if name != names.AVAILABLE)
"""Columns of an item that come from a source."""
_JOINED_COLUMNS: Final = (names.USER_ID, names.ITEM_ID, names.RATING, names.TIMESTAMP, names.EVENT_TYPE, names.WEIGHT)
_POSITION_IN_GROUP: Final = "position_in_group"
_IS_CHOICE: Final = "is_choice"


@dataclass(frozen=True, kw_only=True)
class StagedData:
    """The staged files of one data set."""

    interactions: Staged
    items: Staged | None
    users: Staged | None
    feature_names: tuple[str, ...]
    events: Staged | None = None
    """Additional interactions."""
    item_changes: StagedChanges | None = None


@dataclass(frozen=True, kw_only=True)
class Cleaned:
    """The prepared data as written."""

    report: CleaningReport
    num_users: int
    num_items: int
    num_interactions: int
    files: tuple[Path, ...]


def clean(engine: Engine, staged: StagedData, config: DataConfig, directory: Path) -> Cleaned:
    """Cleans the staged data, and writes the files of prepared data into `directory`.

    Raises DataError when no interaction is left.
    """
    interactions, interactions_report = _write_interactions(engine, staged, config, directory)
    num_items, items_reports, num_without_metadata = _write_items(engine, interactions, staged, directory)
    num_users, users_reports = _write_users(engine, interactions, staged, directory)
    noted = {**interactions_report.noted, **occurring({kinds.ITEM_WITHOUT_METADATA: num_without_metadata})}
    events_reports = () if staged.events is None else (staged.events.report,)
    interactions_report = dataclasses.replace(interactions_report, noted=noted)
    return Cleaned(
        report=CleaningReport(files=(interactions_report, *events_reports, *items_reports, *users_reports)),
        num_users=num_users,
        num_items=num_items,
        num_interactions=interactions_report.rows_kept,
        files=tuple(directory / name for name in (INTERACTIONS_FILE, ITEMS_FILE, USERS_FILE, LOW_RATED_FILE)),
    )


def _write_interactions(
    engine: Engine, staged: StagedData, config: DataConfig, directory: Path
) -> tuple[Any, FileReport]:
    """Returns (interactions as written, their report)."""
    rows, read = _with_events(engine, staged)
    num_good = read.rows_kept
    low = None
    if config.min_rating is not None:
        # In a source with ratings, every row has a rating; among events, only those of type "rating".
        is_low = (rows[names.RATING] < config.min_rating).fill_null(False)
        low, rows = rows.filter(is_low), rows.filter(~is_low)
    num_of_type = count_by(engine, rows, names.EVENT_TYPE)
    pairs = one_of_each_pair(engine, rows, config, num_of_type)
    first = pairs.rows
    dropped = {
        kinds.BELOW_MIN_RATING: num_good - sum(num_of_type.values()),
        kinds.DUPLICATE: pairs.num_repeats,
        kinds.MERGED: sum(num_of_type.values()) - pairs.num_rows - pairs.num_repeats,
    }
    if config.k_core:
        first, below_core = k_core(engine, first, pairs.num_rows, config.k_core)
        dropped |= below_core
    report = dataclasses.replace(
        read,
        rows_kept=num_good - sum(dropped.values()),
        dropped={**read.dropped, **occurring(dropped)},
        merged=pairs.merged,
    )
    if report.rows_kept == 0:
        raise DataError(f"no interaction is left of {report.path}\n{report.to_text()}")
    scale = config.rating_scale_max - config.rating_scale_min
    weights = [(first[names.EVENT_TYPE] == name, weight) for name, weight in rule_of(config).event_weights.items()]
    weighed = first.mutate(
        ((first[names.RATING] - config.rating_scale_min) / scale).name(names.NORMALISED_RATING),
        (ibis.cases(*weights).cast("float64") * first[names.WEIGHT].fill_null(1.0)).name(names.WEIGHT),
    )
    _write_low_rated(engine, low, first, directory, ORDER)
    ordered = weighed.order_by(names.USER_ID, *ORDER)
    written, _ = _write(engine, ordered, directory / INTERACTIONS_FILE, INTERACTION_COLUMNS)
    return written, report


def _write_low_rated(engine: Engine, low: Any | None, chosen: Any, directory: Path, order: tuple[str, ...]) -> None:
    """Writes the first of each user's low ratings of an item that the user did not choose; `low` is None if there is no
    least rating.

    `num_events_before` is the number of the user's choices before it: a user who is cut off after some choices has seen
    what they rated low before the next one.
    """
    if low is None:
        none = chosen.filter(ibis.literal(False)).mutate(ibis.literal(0, "int64").name(names.NUM_EVENTS_BEFORE))
        _write(engine, none, directory / LOW_RATED_FILE, _LOW_RATED_COLUMNS)
        return
    columns = (names.USER_ID, names.ITEM_ID, *order)
    only_low = low.anti_join(chosen, [names.USER_ID, names.ITEM_ID]).select(*columns)
    first_low = _first_in_group(only_low, (names.USER_ID, names.ITEM_ID), order)
    together = first_low.mutate(ibis.literal(0).name(_IS_CHOICE)).union(
        chosen.select(*columns).mutate(ibis.literal(1).name(_IS_CHOICE))
    )
    window = ibis.cumulative_window(group_by=names.USER_ID, order_by=order)
    counted = together.mutate(together[_IS_CHOICE].sum().over(window).cast("int64").name(names.NUM_EVENTS_BEFORE))
    rows = counted.filter(counted[_IS_CHOICE] == 0)
    ordered = rows.order_by(names.USER_ID, names.NUM_EVENTS_BEFORE, names.ITEM_ID)
    _write(engine, ordered, directory / LOW_RATED_FILE, _LOW_RATED_COLUMNS)


def _with_events(engine: Engine, staged: StagedData) -> tuple[Any, FileReport]:
    """Returns (good rows of the interactions file and of the events, their common report)."""
    rows, report = staged.interactions.good(engine), staged.interactions.report
    if staged.events is None:
        return rows, report
    events = staged.events.good(engine)
    # With equal time and position, events come after the rows of the file.
    events = events.mutate((events[ROW] + report.rows_read).name(ROW))
    joined = [
        table.select(ROW, table[POSITION].fill_null(0.0).name(POSITION), *_JOINED_COLUMNS) for table in (rows, events)
    ]
    num_events = staged.events.num_good
    return joined[0].union(joined[1]), dataclasses.replace(
        report,
        rows_read=report.rows_read + num_events,
        rows_kept=report.rows_kept + num_events,
        noted={**report.noted, **occurring({kinds.FROM_EVENTS: num_events})},
    )


def _write_items(
    engine: Engine, interactions: Any, staged: StagedData, directory: Path
) -> tuple[int, tuple[FileReport, ...], int]:
    """Returns (number of items written, reports of the sources of items, number of interactions whose item no source
    has)."""
    unknown = interactions.select(names.ITEM_ID).distinct()
    known, reports = _known_items(engine, staged)
    num_without_metadata = 0
    if known is not None:
        num_without_metadata = count_rows(engine, interactions.anti_join(known, names.ITEM_ID))
        unknown = unknown.anti_join(known, names.ITEM_ID)
    all_items = unknown.mutate(
        ibis.literal("").name(names.TITLE),
        ibis.literal("").name(names.DESCRIPTION),
        no_strings().name(names.CATEGORIES),
        empty_map().name(names.ATTRIBUTES),
    ).select(*_SOURCE_ITEM_COLUMNS)
    if known is not None:
        all_items = known.union(all_items)
    available = ibis.literal(True)
    if staged.item_changes is not None:
        all_items = all_items.left_join(staged.item_changes.availability(engine), names.ITEM_ID)
        available = all_items[names.AVAILABLE].fill_null(True)
    all_items = all_items.select(*_SOURCE_ITEM_COLUMNS, available.name(names.AVAILABLE))
    _, num_items = _write(engine, all_items.order_by(names.ITEM_ID), directory / ITEMS_FILE, _ITEM_COLUMNS)
    return num_items, reports, num_without_metadata


def _known_items(engine: Engine, staged: StagedData) -> tuple[Any, tuple[FileReport, ...]]:
    """Returns (each item as of its last change, or else of the items file; None without both, the reports of both)."""
    file_items, num_in_file = None, 0
    if staged.items is not None:
        first = _first_in_group(staged.items.good(engine), (names.ITEM_ID,), (ROW,)).select(*_SOURCE_ITEM_COLUMNS)
        file_items, num_in_file = write_counted(engine, first, engine.work_dir / "known_items.parquet")
    reports = [] if staged.items is None else [_without_repeats(staged.items, num_in_file, {})]
    if staged.item_changes is None:
        return file_items, tuple(reports)
    changes = staged.item_changes
    path = engine.work_dir / "changed_items.parquet"
    changed, _ = write_counted(engine, changes.contents(engine).select(*_SOURCE_ITEM_COLUMNS), path)
    changes_report = changes.report(count_rows(engine, changes.availability(engine)))
    if file_items is None:
        return changed, (changes_report,)
    unchanged = file_items.anti_join(changed, names.ITEM_ID)
    num_changed = num_in_file - count_rows(engine, unchanged)
    items_report = dataclasses.replace(
        reports[0], noted={**reports[0].noted, **occurring({kinds.ITEM_CHANGED: num_changed})}
    )
    return changed.union(unchanged), (items_report, changes_report)


def _write_users(
    engine: Engine, interactions: Any, staged: StagedData, directory: Path
) -> tuple[int, tuple[FileReport, ...]]:
    """Returns (number of users written, the report of the users file, if there is one)."""
    users = interactions.select(names.USER_ID).distinct()
    features = feature_columns(len(staged.feature_names))
    columns: dict[str, ColumnType] = dict.fromkeys((names.USER_ID, *features), "string")
    if staged.users is None:
        _, num_users = _write(engine, users.order_by(names.USER_ID), directory / USERS_FILE, columns)
        return num_users, ()
    first = _first_in_group(staged.users.good(engine), (names.USER_ID,), (ROW,)).select(*columns)
    known, num_distinct = write_counted(engine, first, engine.work_dir / "known_users.parquet")
    joined = users.left_join(known, names.USER_ID).select(*columns)
    renamed = dict(zip(features, staged.feature_names, strict=True))
    _, num_users = _write(engine, joined.order_by(names.USER_ID), directory / USERS_FILE, columns, renamed)
    num_kept = count_rows(engine, known.semi_join(users, names.USER_ID))
    report = _without_repeats(staged.users, num_distinct, {kinds.USER_WITHOUT_INTERACTIONS: num_distinct - num_kept})
    noted = {**report.noted, **occurring({kinds.USER_WITHOUT_FEATURES: num_users - num_kept})}
    return num_users, (dataclasses.replace(report, noted=noted),)


def _first_in_group(rows: Any, group: tuple[str, ...], order: tuple[str, ...]) -> Any:
    """The first row of each group."""
    position = ibis.row_number().over(ibis.window(group_by=group, order_by=order))
    numbered = rows.mutate(position.name(_POSITION_IN_GROUP))
    return numbered.filter(numbered[_POSITION_IN_GROUP] == 0).drop(_POSITION_IN_GROUP)


def _write(
    engine: Engine,
    rows: Any,
    path: Path,
    columns: Mapping[str, ColumnType],
    renamed: Mapping[str, str] = MappingProxyType({}),
) -> tuple[Any, int]:
    """Returns (rows as a table, their number). The engine computes the rows; `rewrite` makes the bytes of the file the
    same for every engine, and renames columns."""
    ordered = engine.work_dir / f"ordered_{path.name}"
    table, num_written = write_counted(engine, rows.select(*columns), ordered)
    rewrite(ordered, path, columns, renamed)
    return table, num_written


def _without_repeats(staged: Staged, num_distinct: int, also_dropped: Mapping[str, int]) -> FileReport:
    dropped = {kinds.DUPLICATE: staged.num_good - num_distinct, **also_dropped}
    return dataclasses.replace(
        staged.report,
        rows_kept=num_distinct - sum(also_dropped.values()),
        dropped={**staged.report.dropped, **occurring(dropped)},
    )
