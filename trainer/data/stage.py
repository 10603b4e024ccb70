"""Reads a source file once: its rows are staged as typed Parquet, and a bad row has the reason why it is bad.

Later steps, which may run on another engine, read only the staged columns, a small part of the source.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import ibis

from trainer.core.errors import DataError
from trainer.data import report as kinds
from trainer.data.config import DataConfig
from trainer.data.duckdb_engine import DuckDBEngine
from trainer.data.engine import Engine, count_rows
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
        raise DataError(f"{raw.scan.path}: {error}") from error
    rejects = raw.scan.rejects()
    bad = staged.filter(staged[DEFECT].notnull())
    dropped = {row[DEFECT]: row["rows"] for row in reader.rows(bad.group_by(DEFECT).agg(rows=bad.count()))}
    reject_kind = kinds.BAD_JSON if raw.scan.kind == "jsonl" else kinds.BAD_CSV
    dropped[reject_kind] = dropped.get(reject_kind, 0) + len(rejects)
    first = reader.rows(bad.order_by(ROW).limit(MAX_BAD_LINES_KEPT).select(ROW, DEFECT, EXCERPT))
    lines = raw.scan.lines_of([row[ROW] for row in first], rejects)
    bad_lines = [
        BadLine(line=line, kind=row[DEFECT], text=row[EXCERPT] or "") for line, row in zip(lines, first, strict=True)
    ] + [
        BadLine(line=reject.line, kind=reject_kind, text=reject.text[:_MAX_EXCERPT_LENGTH])
        for reject in rejects[:MAX_BAD_LINES_KEPT]
    ]
    good = staged.filter(staged[DEFECT].isnull())
    num_good = count_rows(reader, good)
    report = FileReport(
        role=raw.role,
        path=str(raw.scan.path),
        rows_read=count_rows(reader, staged) + len(rejects),
        rows_kept=num_good,
        dropped=occurring(dropped),
        noted=occurring({note: count_rows(reader, good.filter(good[note])) for note in raw.notes}),
        bad_lines=tuple(sorted(bad_lines, key=lambda bad_line: bad_line.line)[:MAX_BAD_LINES_KEPT]),
    )
    report.check_bad_share(config.max_bad_share)
    return Staged(path=path, num_good=num_good, report=report)


def occurring(counts: Mapping[str, int]) -> dict[str, int]:
    """The counts that are not 0."""
    return {kind: count for kind, count in counts.items() if count}
