"""Parquet files as Arrow tables. The only module of the trainer that imports pyarrow.

Prepared data is written here for every engine, so equal rows become equal bytes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Literal

import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from trainer.core.errors import DataError
from trainer.core.written_files import written_file

ColumnType = Literal["string", "bool", "int64", "float64", "strings", "string_map"]
_ARROW_TYPES: Final[Mapping[ColumnType, Any]] = {
    "string": pa.string(),
    "bool": pa.bool_(),
    "int64": pa.int64(),
    "float64": pa.float64(),
    "strings": pa.list_(pa.string()),
    "string_map": pa.map_(pa.string(), pa.string()),
}
_ROWS_PER_GROUP: Final = 131_072
_ROWS_PER_BATCH: Final = 65_536
_COMPRESSION: Final = "zstd"


def read_table(path: Path, columns: Sequence[str] | None = None) -> Any:
    """An Arrow table of the given columns of a Parquet file, or of all columns. Raises DataError when it is missing or
    damaged."""
    try:
        return pq.read_table(path, columns=None if columns is None else list(columns), partitioning=None)
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{path}: is no readable Parquet file: {' '.join(str(error).split())}") from error


def column_types(path: Path) -> list[tuple[str, str]]:
    """(name, type) of the columns of a Parquet file, in order. Raises OSError or ValueError when it is unreadable."""
    return [(field.name, str(field.type)) for field in pq.read_schema(path)]


def zstandard_stream(path: Path) -> Any:
    """The unpacked content of a file that Zstandard packed, as a binary stream: the standard library cannot read it."""
    return pa.input_stream(path, compression="zstd")


def num_rows(path: Path) -> int:
    """Number of rows of a Parquet file, or of a folder of parts, without reading the rows."""
    return sum(pq.read_metadata(part).num_rows for part in _parts(path))


def write_columns(columns: Mapping[str, Sequence[str] | npt.NDArray[Any]], path: Path) -> None:
    """Writes columns of equal length into a Parquet file. Raises OSError."""
    table = pa.table({name: pa.array(values) for name, values in columns.items()})
    with written_file(path):
        pq.write_table(table, path, compression=_COMPRESSION)


def rewrite(source: Path, target: Path, columns: Mapping[str, ColumnType], renamed: Mapping[str, str]) -> None:
    """Copies an engine's output, in order, into one file with the given columns. `renamed`: old name -> new.

    `source` is a Parquet file, or a folder of parts in the order of their names. The bytes of `target` depend only on
    the rows, because row groups are cut again. Memory holds one row group. Raises OSError.
    """
    schema = pa.schema([(name, _ARROW_TYPES[kind]) for name, kind in columns.items()])
    written = pa.schema([(renamed.get(name, name), _ARROW_TYPES[kind]) for name, kind in columns.items()])
    with written_file(target), pq.ParquetWriter(target, written, compression=_COMPRESSION) as writer:
        for group in _groups(source, schema):
            writer.write_table(group.rename_columns(written.names), row_group_size=_ROWS_PER_GROUP)


def _groups(source: Path, schema: Any) -> Iterator[Any]:
    """Tables of `_ROWS_PER_GROUP` rows each; the last may have fewer."""
    pending: list[Any] = []
    num_pending = 0
    for path in _parts(source):
        with pq.ParquetFile(path) as part:
            for batch in part.iter_batches(_ROWS_PER_BATCH, columns=schema.names):
                pending.append(pa.Table.from_batches([batch]).select(schema.names).cast(schema))
                num_pending += len(batch)
                while num_pending >= _ROWS_PER_GROUP:
                    joined = pa.concat_tables(pending).combine_chunks()
                    yield joined.slice(0, _ROWS_PER_GROUP)
                    pending = [joined.slice(_ROWS_PER_GROUP)]
                    num_pending -= _ROWS_PER_GROUP
    if num_pending:
        yield pa.concat_tables(pending).combine_chunks()


def _parts(path: Path) -> list[Path]:
    return [path] if path.is_file() else sorted(path.glob("*.parquet"))
