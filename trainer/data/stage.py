"""Reads a source file once: its rows are staged as typed Parquet, and a bad row has the reason why it is bad.

Later steps, which may run on another engine, read only the staged columns, a small part of the source.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import ibis

from trainer.core.errors import DataError
from trainer.data import report as kinds
from trainer.data.config import DataConfig
from trainer.data.duckdb_engine import DuckDBEngine
from trainer.data.engine import Engine
from trainer.data.raw import DEFECT, EXCERPT, RawTable
from trainer.data.report import MAX_BAD_LINES_KEPT, BadLine, FileReport
from trainer.data.scan import ROW

_MAX_EXCERPT_LENGTH: Final = 120


@dataclass(frozen=True, kw_only=True)
class Staged:
    """The staged rows of a file."""

    path: Path
    """Parquet of ROW, DEFECT and the typed columns."""
    num_good: int
    report: FileReport
    """Counts rows without a defect as kept."""

    def good(self, engine: Engine) -> Any:
        """The rows without a defect, as a table of `engine`."""
        rows = engine.read(self.path)
        return rows.filter(rows[DEFECT].isnull())


def stage(reader: DuckDBEngine, raw: RawTable, rows: Any, config: DataConfig) -> Staged:
    """Stages the rows of a file in one run of its scan. Raises DataError when too many lines are bad."""
    path = reader.work_dir / f"{raw.role}.parquet"
    excerpt = ibis.cases((rows[DEFECT].notnull(), rows[EXCERPT].left(_MAX_EXCERPT_LENGTH)))
    try:
        staged = reader.write(rows.mutate(excerpt.name(EXCERPT)), path)
    except DataError as error:
        raise DataError(f"{raw.scan.label}: {error}") from error
    rejects = raw.scan.rejects()
    good, dropped = _counts(reader, staged, raw.notes)
    bad_kinds = [defect for defect in dropped if defect in kinds.BAD_KINDS]
    reject_kind = kinds.BAD_JSON if raw.scan.kind == "jsonl" else kinds.BAD_CSV
    dropped[reject_kind] = dropped.get(reject_kind, 0) + rejects.num_lines
    first = []
    if bad_kinds:
        bad = staged.filter(staged[DEFECT].isin(bad_kinds))
        first = reader.rows(bad.order_by(ROW).limit(MAX_BAD_LINES_KEPT).select(ROW, DEFECT, EXCERPT))
    positions = raw.scan.positions_of([row[ROW] for row in first], rejects)
    found = [(position, row[DEFECT], row[EXCERPT] or "") for position, row in zip(positions, first, strict=True)] + [
        (position, reject_kind, text) for position, text in rejects.first
    ]
    order = {part.packed.path.name: number for number, part in enumerate(raw.scan.parts)}
    found.sort(key=lambda entry: (order.get(entry[0].file, 0), entry[0].line))
    bad_lines = tuple(
        BadLine(line=position.line, file=position.file, kind=kind, text=text[:_MAX_EXCERPT_LENGTH])
        for position, kind, text in found[:MAX_BAD_LINES_KEPT]
    )
    num_good = good["rows"]
    report = FileReport(
        role=raw.role,
        path=raw.scan.label,
        rows_read=num_good + sum(dropped.values()),
        rows_kept=num_good,
        dropped=occurring(dropped),
        noted=occurring({note: good[note] for note in raw.notes} | {kinds.NO_LAST_END: raw.scan.num_without_last_end}),
        bad_lines=bad_lines,
        hints=rejects.hints,
    )
    report.check_bad_share(config.max_bad_share)
    return Staged(path=path, num_good=num_good, report=report)


def _counts(reader: DuckDBEngine, staged: Any, notes: Sequence[str]) -> tuple[dict[str, int], dict[str, int]]:
    """Of the good rows, the number of "rows" and of those with each note; and the numbers of the others by defect."""
    numbers = {note: staged[note].sum() for note in notes}
    counted = reader.rows(staged.group_by(DEFECT).agg(staged.count().name("rows"), **numbers))
    good = next((row for row in counted if row[DEFECT] is None), {})
    return (
        {name: good.get(name) or 0 for name in ("rows", *notes)},
        {row[DEFECT]: row["rows"] for row in counted if row[DEFECT] is not None},
    )


def occurring(counts: Mapping[str, int]) -> dict[str, int]:
    """The counts that are not 0."""
    return {kind: count for kind, count in counts.items() if count}
