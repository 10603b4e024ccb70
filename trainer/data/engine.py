"""The interface of an engine that cleans; the Ibis expressions are the same for every engine.

DuckDB always reads the source files (see `scan`); an engine starts from the rows that DuckDB staged.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

from trainer.dataset.parquet import num_rows


class Engine(Protocol):
    """Runs Ibis expressions over Parquet files."""

    work_dir: Path
    """Folder for intermediate files."""

    def read(self, path: Path) -> Any:
        """A Parquet file, or the output of `write`, as an Ibis table."""
        ...

    def rows(self, expression: Any) -> list[dict[str, Any]]:
        """The rows of a small Ibis table. Raises DataError when its source cannot be read."""
        ...

    def write(self, expression: Any, path: Path) -> Any:
        """Writes an Ibis table as Parquet, in order, and returns it as a table. The output is one file, or a folder of
        parts in the order of their names. Raises DataError when the source of the table cannot be read."""
        ...


def write_counted(engine: Engine, expression: Any, path: Path) -> tuple[Any, int]:
    """Returns (the table that `write` returns, its number of rows); the count takes no further run of the engine."""
    return engine.write(expression, path), num_rows(path)


def count_rows(engine: Engine, table: Any) -> int:
    """Number of rows of an Ibis table."""
    return int(engine.rows(table.agg(rows=table.count()))[0]["rows"])


def count_by(engine: Engine, table: Any, column: str) -> dict[str, int]:
    """Numbers of rows by the values of a column of texts."""
    counted = table.group_by(column).agg(rows=table.count())
    return {str(row[column]): int(row["rows"]) for row in engine.rows(counted)}
