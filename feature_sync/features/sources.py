"""The offline sources: one Parquet file per view, with the rows of every entity over time.

A source has rows of the past, which are derived from the data each time, and observed rows: whenever the serving keys
hold a value that differs from the entity's newest row, a row is added, dated by the time of the observation. Observed
rows are kept in separate files. So the newest row of an entity is the value that serving held when the sources were
last written, and observing the same value again adds no row.

Files are replaced by renaming. A crash between two renames leaves an observed row that the source lacks; the next run
adds it again.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import duckdb
import pyarrow as pa

from feature_sync.core.errors import FeatureStoreError
from feature_sync.features.history import empty_sql, identifier, parquet_files, quoted
from feature_sync.features.source_columns import SOURCES, SourceColumns
from tandem.contract import names

Row = Mapping[str, Any]
"""Values by column."""

_FOLDER: Final = Path("features")
_OBSERVED: Final = "observed"
_ROWS_AT_A_TIME: Final = 10_000
_NEWEST_FIRST: Final = f"ORDER BY {names.KNOWN_AT} DESC"


def features_dir(data_dir: Path) -> Path:
    """The folder of the sources and of Feast's registry."""
    return data_dir.absolute() / _FOLDER


def source_path(folder: Path, view: str) -> Path:
    """The file of one view's source."""
    return folder / f"{view}.parquet"


class Sources:
    """The sources in one folder. One process at a time writes them."""

    def __init__(self, folder: Path) -> None:
        """Opens the folder, which does not have to exist."""
        self._folder = folder
        self._database = duckdb.connect()
        self._database.execute("SET TimeZone = 'UTC'; SET preserve_insertion_order = false")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._database.close()

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Locks the folder against other writers. Raises FeatureStoreError if another process writes."""
        (self._folder / _OBSERVED).mkdir(parents=True, exist_ok=True)
        handle = os.open(self._folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield
        except BlockingIOError as error:
            raise FeatureStoreError(
                f"another process writes the features in {self._folder}; try again later"
            ) from error
        finally:
            os.close(handle)

    def define(self, name: str, sql: str) -> None:
        """Creates a table for later queries. Raises FeatureStoreError if its files cannot be read."""
        self._execute(f"CREATE OR REPLACE TEMP TABLE {name} AS {sql}")

    def rows(self, sql: str) -> Iterator[dict[str, Any]]:
        """Rows of a query, read in batches."""
        yield from _dicts(self._database.sql(sql))

    def observe(self, view: str, rows: Sequence[Row]) -> None:
        """Stores serving's current values of some entities, which `write` compares. A row without `known_at` is known
        now."""
        columns = SOURCES[view].all
        self._execute(f"CREATE TEMP TABLE IF NOT EXISTS {_seen(view)} AS {empty_sql(columns)}")
        if not rows:
            return
        given = sorted({name for row in rows for name in row})
        for name in sorted(set(given) - set(self._columns_of(_seen(view)))):
            self._execute(f"ALTER TABLE {_seen(view)} ADD COLUMN {identifier(name)} VARCHAR")
        self._database.register("batch", pa.table({name: [row.get(name) for row in rows] for name in given}))
        self._execute(f"INSERT INTO {_seen(view)} BY NAME SELECT * FROM batch")
        self._database.unregister("batch")

    def observe_history(self, view: str, history: str) -> None:
        """Stores the newest rows of a query as if serving held them, if the source exists."""
        self.observe(view, [])
        if source_path(self._folder, view).is_file():
            newest = f"SELECT * EXCLUDE ({names.KNOWN_AT}) FROM ({history}) {_newest_of_each(SOURCES[view].entity)}"
            self._execute(f"INSERT INTO {_seen(view)} BY NAME {newest}")

    def write(self, view: str, *, history: str | None, now: int) -> int:
        """Writes a view's source: rows of the query `history`, rows observed before, and the values of `observe` that
        differ from the newest row. `now` is in microseconds. Returns the number of observed rows that were added.
        """
        columns = SOURCES[view]
        self.define("history", history or empty_sql(columns.all))
        self._define_observed(view, columns, now)
        num_added = self._value("SELECT count(*) FROM added")
        if num_added:
            self._replace(self._observed_path(view), "SELECT * FROM observed")
        self._replace(
            source_path(self._folder, view),
            f"""
            SELECT *, make_timestamp({names.KNOWN_AT})::TIMESTAMPTZ AS {names.EVENT_TIMESTAMP},
                {names.EVENT_TIMESTAMP} AS {names.CREATED_TIMESTAMP}
            FROM (
                SELECT * EXCLUDE (priority) FROM (
                    {empty_sql(columns.all)}
                    UNION ALL BY NAME SELECT *, 0 AS priority FROM history
                    UNION ALL BY NAME SELECT *, 1 AS priority FROM observed
                )
                QUALIFY row_number() OVER (PARTITION BY {columns.entity}, {names.KNOWN_AT} ORDER BY priority DESC) = 1
            )
            ORDER BY {columns.entity}, {names.KNOWN_AT}
            """,
        )
        self._execute(f"DROP TABLE IF EXISTS {_seen(view)}")
        return num_added or 0

    def newest(self, view: str, ids: Sequence[str] | None = None) -> dict[str, dict[str, Any]]:
        """The newest row of all or of some entities, by id; empty if the source is not written yet."""
        path = source_path(self._folder, view)
        if not path.is_file():
            return {}
        entity = SOURCES[view].entity
        chosen = "" if ids is None else f"WHERE {entity} IN (SELECT unnest($ids))"
        sql = f"SELECT * FROM {parquet_files(path)} {chosen} {_newest_of_each(entity)}"
        found = self._database.sql(sql, params=None if ids is None else {"ids": list(ids)})
        return {row[entity]: row for row in _dicts(found)}

    def newest_values(self, view: str, column: str) -> dict[str, Any]:
        """One value of every entity's newest row, by id."""
        path, entity = source_path(self._folder, view), SOURCES[view].entity
        if not path.is_file():
            return {}
        sql = f"SELECT {entity}, {column} FROM {parquet_files(path)} {_newest_of_each(entity)}"
        return dict(self._execute(sql).fetchall())

    def first_time(self, view: str) -> int | None:
        """Time at which a view's first row was known, in microseconds; None if it has no row."""
        sql = f"SELECT min({names.KNOWN_AT}) FROM {parquet_files(source_path(self._folder, view))}"
        return self._value(sql)

    def field_names(self, view: str) -> set[str]:
        """The columns of a source that are features."""
        path, columns = source_path(self._folder, view), SOURCES[view]
        return set(self._columns_of(f"SELECT * FROM {parquet_files(path)}")) - {
            columns.entity,
            names.EVENT_TIMESTAMP,
            names.CREATED_TIMESTAMP,
        }

    def ids(self, view: str) -> list[str]:
        """The entities of a source."""
        path, entity = source_path(self._folder, view), SOURCES[view].entity
        if not path.is_file():
            return []
        found = self._execute(f"SELECT DISTINCT {entity} FROM {parquet_files(path)} ORDER BY 1")
        return [row[0] for row in found.fetchall()]

    def _define_observed(self, view: str, columns: SourceColumns, now: int) -> None:
        """Creates the tables `added`, rows of `observe` that differ, and `observed`, these and the earlier ones."""
        entity, empty = columns.entity, empty_sql(columns.all)
        self._execute(f"CREATE TEMP TABLE IF NOT EXISTS {_seen(view)} AS {empty}")
        previous, observed = source_path(self._folder, view), self._observed_path(view)
        self.define("newest", f"{empty} UNION ALL BY NAME {_select(previous, empty)} {_newest_of_each(entity)}")
        self.define(
            "added",
            f"""
            SELECT seen.* REPLACE (coalesce(seen.{names.KNOWN_AT}, {now}) AS {names.KNOWN_AT})
            FROM {_seen(view)} AS seen LEFT JOIN newest USING ({entity})
            WHERE newest.{entity} IS NULL OR {self._differs(view, columns)}
            """,
        )
        self.define("observed", f"{empty} UNION ALL BY NAME {_select(observed, empty)} UNION ALL BY NAME FROM added")

    def _differs(self, view: str, columns: SourceColumns) -> str:
        """The SQL condition that a row of `seen` differs in a value from that of `newest`."""
        stored = set(self._columns_of("newest"))
        conditions = ["false"]
        for name in self._columns_of(_seen(view)):
            ours, theirs = f"seen.{identifier(name)}", f"newest.{identifier(name)}" if name in stored else "NULL"
            if name in columns.markers:
                # A row of the past may have no marker, and then no comparison could tell which row is newer.
                conditions.append(f"({theirs} IS NULL AND {ours} IS NOT NULL)")
            elif name not in {columns.entity, names.KNOWN_AT}:
                conditions.append(f"{ours} IS DISTINCT FROM {theirs}")
        return " OR ".join(conditions)

    def _execute(self, sql: str) -> duckdb.DuckDBPyConnection:
        try:
            return self._database.execute(sql)
        except duckdb.Error as error:
            raise FeatureStoreError(f"the features' sources: {str(error).splitlines()[0]}") from error

    def _value(self, sql: str) -> int | None:
        """The single number that a query returns."""
        ((value,),) = self._execute(sql).fetchall()
        return None if value is None else int(value)

    def _columns_of(self, table: str) -> list[str]:
        return [row[0] for row in self._execute(f"DESCRIBE {table}").fetchall()]

    def _observed_path(self, view: str) -> Path:
        return self._folder / _OBSERVED / f"{view}.parquet"

    def _replace(self, path: Path, sql: str) -> None:
        staging = path.with_name(f".{path.name}")
        self._execute(f"COPY ({sql}) TO {quoted(staging)} (FORMAT parquet, COMPRESSION zstd)")
        staging.rename(path)


def _dicts(result: Any) -> Iterator[dict[str, Any]]:
    for batch in result.to_arrow_reader(_ROWS_AT_A_TIME):
        yield from batch.to_pylist()


def _seen(view: str) -> str:
    return f"seen_{view}"


def _select(path: Path, otherwise: str) -> str:
    return f"SELECT * FROM {parquet_files(path)}" if path.is_file() else otherwise


def _newest_of_each(entity: str) -> str:
    return f"QUALIFY row_number() OVER (PARTITION BY {entity} {_NEWEST_FIRST}) = 1"
