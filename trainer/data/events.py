"""Reader of the events that feature_sync archives: interactions like those of a file, with event types and times."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import ibis

from tandem.contract import names
from trainer.data import report as kinds
from trainer.data.archive import parquet_select
from trainer.data.config import DataConfig
from trainer.data.defects import interaction_rows
from trainer.data.duckdb_engine import DuckDBEngine
from trainer.data.raw import DEFECT, EXCERPT, POSITION, InteractionRules, RawTable
from trainer.data.scan import ROW, Scan
from trainer.data.stage import Staged, occurring, stage

_RATING_TYPE: Final = "rating"
_IMPRESSION_TYPE: Final = "impression"

_RULES: Final = InteractionRules(
    has_rating=True,
    rated_event_type=_RATING_TYPE,
    timestamp_unit="microseconds",
    has_position=False,
    event_types=dict(zip(names.EVENT_TYPES, names.EVENT_TYPES, strict=True)),
    default_event_type=_RATING_TYPE,
)


def stage_events(engine: DuckDBEngine, config: DataConfig, paths: Sequence[Path]) -> Staged | None:
    """Reads at least one file of events; returns None if all events are impressions.

    Impressions are dropped: a user who was shown an item has not chosen it. Raises DataError when a file is unreadable
    or lacks a column, or when too many events are bad.
    """
    is_impression = f"{names.EVENT_TYPE} = '{_IMPRESSION_TYPE}'"
    counts = f"count(*) FILTER ({is_impression}), count(*) FILTER (NOT {is_impression})"
    ((num_impressions, num_chosen),) = engine.query(parquet_select(counts, paths))
    if not num_chosen:
        return None
    columns = ", ".join(
        (
            # Event ids are unique, so the numbers of rows do not depend on the order in which files are read.
            f"row_number() OVER (ORDER BY {names.TIMESTAMP}, {names.EVENT_ID}) AS {ROW}",
            *(names.USER_ID, names.ITEM_ID, names.EVENT_TYPE),
            f"CASE WHEN {names.EVENT_TYPE} = '{_RATING_TYPE}' THEN {names.VALUE} END AS {names.RATING}",
            names.TIMESTAMP,
        )
    )
    rows = engine.view(engine.next_name("events"), f"{parquet_select(columns, paths)} WHERE NOT {is_impression}")
    scan = Scan(path=Path(config.events), kind="parquet", rows=rows, engine=engine, columns=tuple(rows.columns))
    raw = RawTable(role="events", scan=scan, rows=_as_text(rows))
    staged = stage(engine, raw, interaction_rows(raw.rows, _RULES, config), config)
    report = replace(
        staged.report,
        rows_read=staged.report.rows_read + num_impressions,
        dropped={**staged.report.dropped, **occurring({kinds.IMPRESSION: num_impressions})},
    )
    return replace(staged, report=report)


def _as_text(rows: Any) -> Any:
    """All columns as text, which cleaning expects from every source."""
    columns = (names.USER_ID, names.ITEM_ID, names.RATING, names.TIMESTAMP, names.EVENT_TYPE)
    texts = {column: rows[column].cast("string") for column in columns}
    return rows.select(
        ROW,
        ibis.literal(", ").join([text.fill_null("") for text in texts.values()]).name(EXCERPT),
        ibis.null("string").name(DEFECT),
        ibis.null("string").name(POSITION),
        ibis.null("string").name(names.WEIGHT),
        **texts,
    )
