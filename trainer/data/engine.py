"""What cleaning asks of the engine it runs on; its expressions are Ibis, and the same on every engine.

Source files are read by DuckDB in any case (see `scan`); an engine takes over from the rows that DuckDB staged.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

from trainer.dataset.parquet import num_rows


class Engine(Protocol):
    """Runs Ibis expressions over Parquet files."""

    work_dir: Path
    """Folder for what lies between two steps."""

    def read(self, path: Path) -> Any:
        """A Parquet file, or what `write` wrote, as an Ibis table."""
        ...

    def rows(self, expression: Any) -> list[dict[str, Any]]:
        """The rows of a small Ibis table. Raises DataError when its source cannot be read."""
        ...

    def write(self, expression: Any, path: Path) -> Any:
        """Writes an Ibis table as Parquet, in order, and returns it as a table: one file, or a folder of parts whose
        names are in order. Raises DataError when its source cannot be read."""
        ...


def write_counted(engine: Engine, expression: Any, path: Path) -> tuple[Any, int]:
    """(what `write` returns, its number of rows), which costs the engine no further run."""
    return engine.write(expression, path), num_rows(path)


def count_rows(engine: Engine, table: Any) -> int:
    """Rows of an Ibis table."""
    return int(engine.rows(table.agg(rows=table.count()))[0]["rows"])
