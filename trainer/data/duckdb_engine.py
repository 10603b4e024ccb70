"""The DuckDB connection that reads all source files, and cleans by default; used through Ibis.

Tables may be larger than memory: DuckDB streams, and spills sorts beyond the memory limit to the work folder.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import duckdb
import ibis

from trainer.core.errors import DataError

_MEMORY_LIMIT_BYTES: Final = 2 << 30
"""Enough to sort tens of millions of interactions without spilling, while leaving memory free on a small machine."""


_python_functions: Final[dict[str, Callable[[str], str]]] = {}
_maps: Final[dict[str, Mapping[str, str]]] = {}
"""Variables of every connection."""


class DuckDBEngine:
    """One connection with a work folder for staged and spilled data. A context manager."""

    def __init__(self, work_dir: Path) -> None:
        self.work_dir = work_dir
        memory_bytes = min(_MEMORY_LIMIT_BYTES, os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2)
        self._connection = ibis.duckdb.connect(
            temp_directory=str(work_dir / "spill"),
            memory_limit=f"{memory_bytes // 2**20}MiB",
            autoinstall_known_extensions=False,  # an installation would use the network in the middle of a run
        )
        for name, function in _python_functions.items():
            self._connection.con.create_function(name, function, ["VARCHAR"], "VARCHAR")
        for name, entries in _maps.items():
            self._connection.con.execute(f"SET VARIABLE {name} = map(?, ?)", [list(entries), list(entries.values())])
        self._views = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._connection.disconnect()

    def next_name(self, stem: str) -> str:
        """A name that no other view or table of this connection has."""
        self._views += 1
        return f"{stem}_{self._views}"

    def next_path(self, stem: str) -> Path:
        """The path of a new file in the work folder."""
        return self.work_dir / self.next_name(stem)

    def view(self, name: str, select: str) -> Any:
        """The result of a SELECT as an Ibis table. Raises DataError when it cannot be read."""
        self.query(f"CREATE VIEW {name} AS {select}")
        return self._connection.table(name)

    def query(self, sql: str) -> list[tuple[Any, ...]]:
        """Runs SQL and returns its rows, for the few queries that Ibis cannot express."""
        try:
            return list(self._connection.raw_sql(sql).fetchall())
        except duckdb.Error as error:
            raise _data_error(error) from error

    def read(self, path: Path) -> Any:
        """A Parquet file as an Ibis table."""
        return self.view(self.next_name("file"), f"SELECT * FROM {parquet_files([path])}")

    def rows(self, expression: Any) -> list[dict[str, Any]]:
        """The rows of a small Ibis table. Raises DataError when its source cannot be read."""
        try:
            return list(self._connection.to_pyarrow(expression).to_pylist())
        except duckdb.Error as error:
            raise _data_error(error) from error

    def write(self, expression: Any, path: Path) -> Any:
        """Streams an Ibis table into a Parquet file, in order, and returns the file as a table. Raises DataError."""
        try:
            # Ibis would write the path as a Python literal, which is not an SQL literal if it contains an apostrophe.
            select = self._connection.compile(expression)
            self._connection.raw_sql(f"COPY ({select}) TO {quoted(str(path))} (FORMAT parquet, COMPRESSION zstd)")
        except duckdb.Error as error:
            raise _data_error(error) from error
        return self.read(path)


def duckdb_function(name: str, arguments: tuple[str, ...], result: str) -> Callable[..., Any]:
    """A DuckDB function of columns that Ibis lacks; `arguments` and `result` are Ibis type names."""

    def unary(first: Any) -> None:
        """Ibis only reads the number of parameters."""

    def binary(first: Any, second: Any) -> None:
        """Ibis only reads the number of parameters."""

    template = unary if len(arguments) == 1 else binary
    function: Callable[..., Any] = ibis.udf.scalar.builtin(template, name=name, signature=(arguments, result))
    return function


def python_function(name: str, function: Callable[[str], str]) -> Callable[..., Any]:
    """A Python function of one text column, which every engine opened later calls row by row in DuckDB's stream.

    Null stays null; the function itself must not return None.
    """
    _python_functions[name] = function
    return duckdb_function(name, ("string",), "string")


def set_on_connections(name: str, entries: Mapping[str, str]) -> None:
    """Gives every engine opened later a map as a variable. As a literal it would be parsed at every use."""
    _maps[name] = entries


def connection_value(name: str, kind: str) -> Any:
    """The value of a variable of the connection; `kind` is an Ibis type name."""
    return duckdb_function("getvariable", ("string",), kind)(name)


def quoted(text: str) -> str:
    """A string as an SQL literal."""
    return "'" + text.replace("'", "''") + "'"


def file_list(paths: Sequence[Path]) -> str:
    """Files as an SQL list of DuckDB's readers, which would otherwise take `*`, `?` and `[` in a name for a pattern."""
    return "[" + ", ".join(quoted(re.sub(r"[*?\[]", r"[\g<0>]", str(path))) for path in paths) + "]"


def parquet_files(paths: Sequence[Path], options: str = "") -> str:
    """The SQL table of Parquet files: their columns alone, never values from folders named `key=value`."""
    return f"read_parquet({file_list(paths)}, hive_partitioning = false{options})"


def identifier(name: str) -> str:
    """A column name in SQL."""
    return '"' + name.replace('"', '""') + '"'


def _data_error(error: duckdb.Error) -> DataError:
    return DataError(str(error).strip().split("\n\n", maxsplit=1)[0].replace("\n", " "))
