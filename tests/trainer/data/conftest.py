"""Shared by the data tests: the folder of the real data sets, and writers of every file format."""

import gzip
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from trainer.data.config import FileConfig
from trainer.data.duckdb_engine import DuckDBEngine
from trainer.data.prepare import PreparedData
from trainer.data.scan import LINE, ROW
from trainer.data.scan_files import scan_table

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


@dataclass(frozen=True)
class Scanned:
    """What the trainer reads of a source, before any cleaning."""

    rows: list[tuple[object, ...]]
    """The values of the columns asked for, in order; JSON lines: the line alone."""
    lines: list[int]
    """Number of the line on which each row begins."""
    files: list[str]
    refused: list[int]
    """Number of the first line of everything that was refused."""
    num_refused: int
    texts: list[str]
    hints: tuple[str, ...]
    num_copies: int
    """Number of files in the work folder: 0 if DuckDB reads the source in place."""


def scanned(work_dir: Path, paths: Path | Sequence[Path], wanted: Sequence[str] = (), /, **keys: object) -> Scanned:
    """Reads files as the trainer does; `keys` are those of a file's section in a data set's description."""
    config = FileConfig.model_validate({"path": "unused", **keys})
    work_dir.mkdir(exist_ok=True)
    with DuckDBEngine(work_dir) as engine:
        scan = scan_table(engine, [paths] if isinstance(paths, Path) else paths, config)
        num_copies = len(list(work_dir.iterdir()))
        fields = [scan.field("interactions", column) for column in wanted] or [LINE]
        found = engine.rows(engine.write(scan.rows.select(ROW, *fields), work_dir / "staged.parquet"))
        rejects = scan.rejects()
        positions = scan.positions_of([row[ROW] for row in found], rejects)
    return Scanned(
        rows=[tuple(row[field] for field in fields) for row in found],
        lines=[position.line for position in positions],
        files=[position.file for position in positions],
        refused=[position.line for position, _ in rejects.first],
        num_refused=rejects.num_lines,
        texts=[text for _, text in rejects.first],
        hints=rejects.hints,
        num_copies=num_copies,
    )
