"""Shared by the data tests: the folder of the real data sets, and writers of every file format."""

import gzip
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from trainer.data.prepare import PreparedData

Rows = Sequence[dict[str, object]]
REPOSITORY = Path(__file__).parents[3]


@pytest.fixture
def shared_data() -> Path:
    folder = Path(os.environ.get("TANDEM_SHARED_DATA", REPOSITORY.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no real data sets in {folder} (set TANDEM_SHARED_DATA)")
    return folder


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str, bytes | str], Path]:
    """Writes a file, compressed if its name ends in .gz."""

    def write_file(name: str, content: bytes | str) -> Path:
        data = content.encode() if isinstance(content, str) else content
        path = tmp_path / name
        path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
        return path

    return write_file


def table_rows(prepared: PreparedData, table: str) -> list[dict[str, object]]:
    """The rows of interactions, items or users."""
    return pq.read_table(prepared.directory / f"{table}.parquet").to_pylist()


def csv_text(rows: Rows) -> str:
    columns = list(rows[0])
    lines = [",".join(columns)]
    lines += [",".join("" if row[column] is None else str(row[column]) for column in columns) for row in rows]
    return "\n".join(lines) + "\n"


def jsonl_text(rows: Rows) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def parquet_bytes(rows: Rows) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(list(rows)), sink)
    return sink.getvalue().to_pybytes()
