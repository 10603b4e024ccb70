"""Parquet files as Arrow tables: the one place where the trainer imports pyarrow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq


def read_table(path: Path, columns: Sequence[str] | None = None) -> Any:
    """An Arrow table with these columns of a Parquet file, or with all. Raises OSError when the file is unreadable."""
    return pq.read_table(path, columns=None if columns is None else list(columns))


def write_columns(columns: Mapping[str, Sequence[str] | npt.NDArray[Any]], path: Path) -> None:
    """Writes columns of one length into a Parquet file, those of few different values as dictionaries."""
    pq.write_table(pa.table({name: pa.array(values) for name, values in columns.items()}), path, compression="zstd")
