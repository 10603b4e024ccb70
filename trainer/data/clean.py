"""What is kept of the rows that were read, what is dropped, and why: Ibis expressions over any reader's raw tables.

A raw table is first staged: parsed once, each row with the reason it is bad, if it is. Counts, order and repeats
are then taken from the staged columns, which are a small part of what the source holds.

Rows below `min_rating` go before repeats are looked for, so that who liked an item at the second try did like it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import ibis

from tandem.contract import names
from trainer.data import report as kinds
from trainer.data.config import DataConfig
from trainer.data.defects import identified_rows, interaction_rows
from trainer.data.engine import Engine
from trainer.data.raw import DEFECT, EXCERPT, POSITION, RawData, RawTable
from trainer.data.report import MAX_BAD_LINES_KEPT, BadLine, CleaningReport, FileReport
from trainer.data.scan import ROW
from trainer.data.text import empty_map, no_strings
from trainer.errors import DataError

INTERACTIONS_FILE: Final = "interactions.parquet"
ITEMS_FILE: Final = "items.parquet"
USERS_FILE: Final = "users.parquet"

_MAX_EXCERPT_LENGTH: Final = 120


@dataclass(frozen=True, kw_only=True)
class _Staged:
    good: Any
    """Ibis table over staged rows without a defect."""
    num_good: int
    report: FileReport
    """Rows without a defect count as kept."""


@dataclass(frozen=True, kw_only=True)
class Cleaned:
    """What was written."""

    report: CleaningReport
    num_users: int
    num_items: int
    num_interactions: int
    files: tuple[Path, ...]


def clean(engine: Engine, raw: RawData, config: DataConfig, directory: Path) -> Cleaned:
    """Cleans what a reader read, and writes the three files of prepared data into `directory`.

    Raises DataError when a file has too many bad lines, is unreadable or empty, or when no interaction is left.
    """
    interactions_staged = _stage(
        engine, raw.interactions, interaction_rows(raw.interactions.rows, raw.rules, config), config
    )
    items_staged = (
        _stage(engine, raw.items, identified_rows(raw.items.rows, names.ITEM_ID), config) if raw.items else None
    )
    users_staged = (
        _stage(engine, raw.users, identified_rows(raw.users.rows, names.USER_ID), config) if raw.users else None
    )

    interactions, interactions_report = _write_interactions(engine, interactions_staged, config, directory)
    items, items_reports, num_without_metadata = _write_items(engine, interactions, items_staged, directory)
    users, users_reports = _write_users(engine, interactions, users_staged, raw, directory)

    noted = _occurring({kinds.ITEM_WITHOUT_METADATA: num_without_metadata})
    return Cleaned(
        report=CleaningReport(
            files=(dataclasses.replace(interactions_report, noted=noted), *items_reports, *users_reports)
        ),
        num_users=_count(engine, users),
        num_items=_count(engine, items),
        num_interactions=interactions_report.rows_kept,
        files=(directory / INTERACTIONS_FILE, directory / ITEMS_FILE, directory / USERS_FILE),
    )


def _stage(engine: Engine, raw: RawTable, rows: Any, config: DataConfig) -> _Staged:
    """Runs the scan once. Raises DataError when too many lines are bad."""
    excerpt = ibis.cases((rows[DEFECT].notnull(), rows[EXCERPT].left(_MAX_EXCERPT_LENGTH)))
    try:
        staged = engine.write(rows.mutate(excerpt.name(EXCERPT)), engine.work_dir / f"{raw.role}.parquet")
    except DataError as error:
        raise DataError(f"{raw.scan.path}: {error}") from error
    rejects = raw.scan.rejects()
    bad = staged.filter(staged[DEFECT].notnull())
    dropped = {row[DEFECT]: row["rows"] for row in engine.rows(bad.group_by(DEFECT).agg(rows=bad.count()))}
    reject_kind = kinds.BAD_JSON if raw.scan.kind == "jsonl" else kinds.BAD_CSV
    dropped[reject_kind] = dropped.get(reject_kind, 0) + len(rejects)
    first = engine.rows(bad.order_by(ROW).limit(MAX_BAD_LINES_KEPT).select(ROW, DEFECT, EXCERPT))
    lines = raw.scan.lines_of([row[ROW] for row in first], rejects)
    bad_lines = [
        BadLine(line=line, kind=row[DEFECT], text=row[EXCERPT] or "") for line, row in zip(lines, first, strict=True)
    ] + [
        BadLine(line=reject.line, kind=reject_kind, text=reject.text[:_MAX_EXCERPT_LENGTH])
        for reject in rejects[:MAX_BAD_LINES_KEPT]
    ]
    good = staged.filter(staged[DEFECT].isnull())
    num_good = _count(engine, good)
    report = FileReport(
        role=raw.role,
        path=str(raw.scan.path),
        rows_read=_count(engine, staged) + len(rejects),
        rows_kept=num_good,
        dropped=_occurring(dropped),
        noted=_occurring({note: _count(engine, good.filter(good[note])) for note in raw.notes}),
        bad_lines=tuple(sorted(bad_lines, key=lambda bad_line: bad_line.line)[:MAX_BAD_LINES_KEPT]),
    )
    report.check_bad_share(config.max_bad_share)
    return _Staged(good=good, num_good=num_good, report=report)


def _write_interactions(engine: Engine, staged: _Staged, config: DataConfig, directory: Path) -> tuple[Any, FileReport]:
    """(interactions as written, their report)."""
    rows = staged.good
    if config.min_rating is not None:
        rows = rows.filter(rows[names.RATING] >= config.min_rating)
    num_high_enough = _count(engine, rows)
    num_pairs = _count(engine, rows.select(names.USER_ID, names.ITEM_ID).distinct())
    order = (names.TIMESTAMP, POSITION, ROW)
    place = ibis.row_number().over(ibis.window(group_by=(names.USER_ID, names.ITEM_ID), order_by=order))
    first = rows.mutate(place.name("place"))
    first = first.filter(first["place"] == 0).order_by(names.USER_ID, *order)
    columns = (names.USER_ID, names.ITEM_ID, names.RATING, names.TIMESTAMP, names.EVENT_TYPE)
    written = engine.write(first.select(*columns), directory / INTERACTIONS_FILE)
    num_kept = _count(engine, written)
    if num_kept == 0:
        raise DataError(f"no interaction is left of {staged.report.path}\n{staged.report.to_text()}")
    report = dataclasses.replace(
        staged.report,
        rows_kept=num_kept,
        dropped={
            **staged.report.dropped,
            **_occurring(
                {
                    kinds.BELOW_MIN_RATING: staged.num_good - num_high_enough,
                    kinds.DUPLICATE: num_high_enough - num_pairs,
                }
            ),
        },
    )
    return written, report


def _write_items(
    engine: Engine, interactions: Any, staged: _Staged | None, directory: Path
) -> tuple[Any, tuple[FileReport, ...], int]:
    """(items as written, the items file's report, interactions whose item that file lacks)."""
    columns = (names.ITEM_ID, names.TITLE, names.DESCRIPTION, names.CATEGORIES, names.ATTRIBUTES)
    bare = interactions.select(names.ITEM_ID).distinct()
    reports: tuple[FileReport, ...] = ()
    num_without_metadata = 0
    known = None
    if staged is not None:
        place = ibis.row_number().over(ibis.window(group_by=names.ITEM_ID, order_by=ROW))
        first = staged.good.mutate(place.name("place"))
        known = engine.write(
            first.filter(first["place"] == 0).select(*columns), engine.work_dir / "known_items.parquet"
        )
        num_without_metadata = _count(engine, interactions.anti_join(known, names.ITEM_ID))
        reports = (_without_repeats(staged, _count(engine, known), {}),)
        bare = bare.anti_join(known, names.ITEM_ID)
    every = bare.mutate(
        ibis.literal("").name(names.TITLE),
        ibis.literal("").name(names.DESCRIPTION),
        no_strings().name(names.CATEGORIES),
        empty_map().name(names.ATTRIBUTES),
    ).select(*columns)
    if known is not None:
        every = known.union(every)
    return engine.write(every.order_by(names.ITEM_ID), directory / ITEMS_FILE), reports, num_without_metadata


def _write_users(
    engine: Engine, interactions: Any, staged: _Staged | None, raw: RawData, directory: Path
) -> tuple[Any, tuple[FileReport, ...]]:
    """(users as written, the users file's report)."""
    users = interactions.select(names.USER_ID).distinct()
    if staged is None:
        return engine.write(users.order_by(names.USER_ID), directory / USERS_FILE), ()
    place = ibis.row_number().over(ibis.window(group_by=names.USER_ID, order_by=ROW))
    first = staged.good.mutate(place.name("place"))
    known = first.filter(first["place"] == 0).select(names.USER_ID, *raw.feature_names)
    joined = users.left_join(known, names.USER_ID).select(names.USER_ID, *raw.feature_names)
    written = engine.write(joined.order_by(names.USER_ID), directory / USERS_FILE)
    num_kept = _count(engine, known.semi_join(users, names.USER_ID))
    num_distinct = _count(engine, known)
    report = _without_repeats(staged, num_distinct, {kinds.USER_WITHOUT_INTERACTIONS: num_distinct - num_kept})
    noted = _occurring({kinds.USER_WITHOUT_FEATURES: _count(engine, users) - num_kept})
    return written, (dataclasses.replace(report, noted=noted),)


def _without_repeats(staged: _Staged, num_distinct: int, also_dropped: Mapping[str, int]) -> FileReport:
    dropped = {kinds.DUPLICATE: staged.num_good - num_distinct, **also_dropped}
    return dataclasses.replace(
        staged.report,
        rows_kept=num_distinct - sum(also_dropped.values()),
        dropped={**staged.report.dropped, **_occurring(dropped)},
    )


def _occurring(counts: Mapping[str, int]) -> dict[str, int]:
    return {kind: count for kind, count in counts.items() if count}


def _count(engine: Engine, table: Any) -> int:
    return int(engine.rows(table.agg(rows=table.count()))[0]["rows"])
