"""A user's rows in Parquet files that have a column of user ids, and the same files without them.

Prepared data may be larger than memory, so a file is copied row group by row group.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from feature_sync.core.errors import StorageError
from feature_sync.personal_data.place import Record
from feature_sync.personal_data.replaced_files import staged_path
from tandem.contract import names
from tandem.ops.file_replacement import flush_to_disk, put_in_place

_NOBODY: Final = "deleted user of row "


def rows_of_user(path: Path, user_id: str) -> list[dict[str, Any]]:
    """The user's rows, by column. Raises StorageError for a file that is no such Parquet file."""
    try:
        # Statistics of the row groups spare most of a file that is sorted by user.
        rows = pq.read_table(path, filters=[(names.USER_ID, "=", user_id)], partitioning=None)
    except (OSError, pa.ArrowException, KeyError) as error:
        raise _unreadable(path, error) from error
    return [{name: _plain(value) for name, value in row.items()} for row in rows.to_pylist()]


def records_of_user(folder: Path, paths: Iterable[Path], user_id: str) -> list[Record]:
    """The user's rows in files of a folder, each with its file. Raises StorageError."""
    return [{"file": str(path.relative_to(folder)), **row} for path in paths for row in rows_of_user(path, user_id)]


def _plain(value: Any) -> Any:
    """A value that JSON can hold: of Parquet's, a time is none."""
    return value.isoformat() if isinstance(value, datetime) else value


def write_without_user(path: Path, target: Path, user_id: str) -> None:
    """Copies a file without the user's rows; `target` is on disk then. Raises StorageError and OSError."""
    try:
        with pq.ParquetFile(path) as source:
            schema = source.schema_arrow
            with pq.ParquetWriter(target, schema, compression="zstd") as writer:
                for number in range(source.num_row_groups):
                    rows = source.read_row_group(number)
                    writer.write_table(rows.filter(pc.not_equal(rows.column(names.USER_ID), user_id)))
    except (pa.ArrowException, KeyError) as error:
        raise _unreadable(path, error) from error
    flush_to_disk(target)


def erase_user(path: Path, user_id: str) -> int:
    """Replaces a file by one without the user's rows; returns their number. Raises StorageError and OSError."""
    rows = rows_of_user(path, user_id)
    if rows:
        write_without_user(path, staged_path(path), user_id)
        put_in_place(staged_path(path), path)
    return len(rows)


def without_name(content: bytes, user_id: str) -> bytes | None:
    """A Parquet file of users, in which a user's row stays, because its number means something, and has no name.

    None if the file does not name the user. Raises StorageError.
    """
    try:
        table = pq.read_table(pa.BufferReader(content))
        number = table.schema.get_field_index(names.USER_ID)
        ids = table.column(number).to_pylist()
    except (OSError, pa.ArrowException, IndexError) as error:
        raise _unreadable(Path(names.USER_ID), error) from error
    if user_id not in ids:
        return None
    row = ids.index(user_id)
    renamed = pa.array([*ids[:row], f"{_NOBODY}{row}", *ids[row + 1 :]], table.schema.field(number).type)
    sink = pa.BufferOutputStream()
    pq.write_table(table.set_column(number, names.USER_ID, renamed), sink, compression="zstd")
    written: bytes = sink.getvalue().to_pybytes()
    return written


def has_users(path: Path) -> bool:
    """Whether a Parquet file has a column of user ids. Raises StorageError."""
    try:
        return names.USER_ID in pq.read_schema(path).names
    except (OSError, pa.ArrowException) as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> StorageError:
    return StorageError(f"{path}: is no readable Parquet file of users: {' '.join(str(error).split())}")
