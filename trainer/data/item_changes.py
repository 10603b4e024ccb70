"""Reader of the catalogue changes that feature_sync archives. The last change of an item decides its content."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import ibis

from tandem.contract import names
from trainer.data import report as kinds
from trainer.data.archive import parquet_select
from trainer.data.duckdb_engine import DuckDBEngine
from trainer.data.engine import Engine, count_rows
from trainer.data.report import FileReport

_ITEM_COLUMNS: Final = (names.ITEM_ID, names.TITLE, names.DESCRIPTION, names.CATEGORIES, names.ATTRIBUTES)
_POSITION_FROM_LAST: Final = "position_from_last"


@dataclass(frozen=True, kw_only=True)
class StagedChanges:
    """The changes of the selected days, in one Parquet file."""

    folder: Path
    path: Path
    num_changes: int
    last_sequence: int
    """Sequence number of the last change; 0 if there is none."""

    def contents(self, engine: Engine) -> Any:
        """Each item as of the last change that did not delete it: item_id, title, description, categories, attributes.

        A deleted item keeps its texts: it is still read as history.
        """
        rows = engine.read(self.path)
        return _last_of_each_item(rows.filter(~rows[names.DELETED])).select(*_ITEM_COLUMNS)

    def availability(self, engine: Engine) -> Any:
        """Whether an item may be recommended after its last change: item_id, available."""
        last = _last_of_each_item(engine.read(self.path))
        return last.select(names.ITEM_ID, (last[names.AVAILABLE] & ~last[names.DELETED]).name(names.AVAILABLE))

    def report(self, num_items: int) -> FileReport:
        """The report of the changes, of which the last change of each of `num_items` items is kept."""
        superseded = self.num_changes - num_items
        return FileReport(
            role="item changes",
            path=str(self.folder),
            rows_read=self.num_changes,
            rows_kept=num_items,
            dropped={kinds.SUPERSEDED: superseded} if superseded else {},
            noted={},
            bad_lines=(),
        )


def stage_changes(reader: DuckDBEngine, folder: Path, paths: Sequence[Path]) -> StagedChanges:
    """Reads at least one file of changes. Raises DataError when a file is unreadable or lacks a column."""
    columns = ", ".join((names.SEQUENCE, names.DELETED, names.AVAILABLE, *_ITEM_COLUMNS))
    rows = reader.view(reader.next_name("item_changes"), parquet_select(columns, paths))
    staged = reader.write(rows, reader.work_dir / "item_changes.parquet")
    (newest,) = reader.rows(staged.agg(last=staged[names.SEQUENCE].max()))
    return StagedChanges(
        folder=folder,
        path=reader.work_dir / "item_changes.parquet",
        num_changes=count_rows(reader, staged),
        last_sequence=int(newest["last"] or 0),
    )


def _last_of_each_item(rows: Any) -> Any:
    window = ibis.window(group_by=names.ITEM_ID, order_by=ibis.desc(names.SEQUENCE))
    numbered = rows.mutate(ibis.row_number().over(window).name(_POSITION_FROM_LAST))
    return numbered.filter(numbered[_POSITION_FROM_LAST] == 0).drop(_POSITION_FROM_LAST)
