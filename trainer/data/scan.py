"""Source files as tables of text, with the line numbers of lines that cannot be parsed.

All columns stay text, so a wrong value is found by cleaning, which counts it, and not by the parser, which would fail.
JSON lines are read as whole lines: DuckDB's own JSON reader drops bad lines without their numbers.
"""

from __future__ import annotations

import csv
import gzip
import operator
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import Any, Final, Literal

import ibis

from trainer.core.errors import ConfigError, DataError
from trainer.data.config import FileConfig
from trainer.data.duckdb_engine import DuckDBEngine, file_list, identifier, parquet_files, quoted
from trainer.data.line_numbers import blank_lines, is_gzip, lines_at, lines_of_ranks
from trainer.dataset.parquet import column_names

ROW: Final = "source_row"
"""Column of every scan: number of the row among the parsed rows, from 1, int64."""
LINE: Final = "source_line"
"""Column of a scan of JSON lines: the unparsed line."""

_SUFFIXES: Final = {
    **dict.fromkeys((".csv", ".tsv", ".dat", ".txt", ".inter", ".item", ".user"), "csv"),
    **dict.fromkeys((".json", ".jsonl", ".ndjson"), "jsonl"),
    **dict.fromkeys((".parquet", ".pq"), "parquet"),
}
_NO_DELIMITER: Final = "\x01\x02\x1e\x1f"
"""Makes each line a single field: JSON has no unescaped control characters, and no file has these four in a row."""
_MAX_LINE_BYTES: Final = 16 << 20
_BUFFER_BYTES: Final = 32 << 20
_MAX_REJECT_LENGTH: Final = 2_000
"""Maximum number of characters kept of a refused line: a file of another format may be refused as one line."""

ScanKind = Literal["csv", "jsonl", "parquet"]


@dataclass(frozen=True)
class Reject:
    """A line that the parser refused."""

    line: int
    text: str


@dataclass(frozen=True, kw_only=True)
class Scan:
    """A file as an Ibis table of strings (Parquet: of the file's types). Refused lines are known after a run."""

    path: Path
    kind: ScanKind
    rows: Any
    """Ibis table: ROW, and either LINE (JSON lines) or the file's columns, each under the name that `field` returns."""
    engine: DuckDBEngine
    num_header_lines: int = 0
    rejects_table: str = ""
    columns: tuple[str, ...] = ()
    """Columns of the file; empty for JSON lines."""
    encoding: str = "utf-8"

    def field(self, section: str, column: str) -> str:
        """The name in `rows` of a column of the file: the column of exactly this name, or else of this name between
        blanks.

        Raises ConfigError, which names the section, when no column or more than one has this name.
        """
        for names in (self.columns, tuple(name.strip() for name in self.columns)):
            if names.count(column) > 1:
                raise ConfigError(f"{section}: {self.path.name} has {names.count(column)} columns {column!r}")
            if column in names:
                return _fields(names)[names.index(column)]
        raise ConfigError(
            f"{section}: {self.path.name} has no column {column!r}; its columns are {', '.join(self.columns)}"
        )

    def rejects(self) -> list[Reject]:
        """The lines that the parser refused in the last run over `rows`, in order."""
        if not self.rejects_table:
            return []
        found = self.engine.query(
            f"SELECT line, any_value(line_byte_position), any_value(left(csv_line, {_MAX_REJECT_LENGTH})) "
            f"FROM {self.rejects_table} WHERE scan_id = (SELECT max(scan_id) FROM {self.rejects_table}) "
            "GROUP BY line ORDER BY line"
        )
        texts = [text or "" for _, _, text in found]
        lines = [int(line) for line, _, _ in found]
        if self.kind == "csv":
            # `line` is the number of a record here, and a record may span several lines. The text and the position of a
            # refused record begin at the end of the line before it, and include blank lines in between.
            lines = lines_at(self.path, self.encoding, [int(position) for _, position, _ in found])
            before = [text[: len(text) - len(text.lstrip("\r\n"))].count("\n") for text in texts]
            lines = [line + max(0, breaks - 1) for line, breaks in zip(lines, before, strict=True)]
        return [Reject(line, text.strip()) for line, text in zip(lines, texts, strict=True)]

    def lines_of(self, rows: list[int], rejects: list[Reject]) -> list[int]:
        """Numbers of the lines of the file on which the parsed rows begin."""
        if self.kind == "parquet" or not rows:
            return rows
        skipped = {reject.line + offset for reject in rejects for offset in range(reject.text.count("\n") + 1)}
        if self.kind == "jsonl":
            return lines_of_ranks(rows, skipped)
        skipped |= set(blank_lines(self.path)) | set(range(1, self.num_header_lines + 1))
        return lines_of_ranks(self._ranks(rows), skipped)

    def _ranks(self, rows: list[int]) -> list[int]:
        """Rank of each row's first line among the lines that are neither blank nor refused, from 1."""

        def further_lines(column: Any) -> Any:
            # Line breaks in quotes. Consecutive breaks count once: the blank lines between them are skipped.
            breaks = column.replace("\r\n", "\n").re_replace("\n+", "\n")
            return (breaks.length() - breaks.replace("\n", "").length()).fill_null(0)

        further = reduce(operator.add, (further_lines(self.rows[field]) for field in _fields(self.columns)))
        counted = self.rows.select(ROW, further=further)
        further_before = counted["further"].sum().over(ibis.cumulative_window(order_by=ROW)) - counted["further"]
        ranked = counted.select(ROW, rank=(counted[ROW] + further_before).cast("int64"))
        found = self.engine.rows(ranked.filter(ranked[ROW].isin(rows)))
        ranks = {row[ROW]: row["rank"] for row in found}
        return [ranks[row] for row in rows]


def scan_table(engine: DuckDBEngine, path: Path, config: FileConfig) -> Scan:
    """Opens a file of a plain table. Raises ConfigError if its format is unknown, DataError if it is unreadable."""
    kind = config.file_format if config.file_format != "auto" else _kind_of(path)
    if kind == "jsonl":
        return scan_lines(engine, path)
    if kind == "parquet":
        columns = column_names(path)
        source = (
            f"SELECT row_number() OVER () AS {ROW}, * FROM {parquet_files([path])} AS t({', '.join(_fields(columns))})"
        )
        rows = engine.view(engine.next_name("scan"), source)
        return Scan(path=path, kind="parquet", rows=rows, engine=engine, columns=columns)
    # pandas writes its index as a column without a name.
    header = config.columns or _header(path, config)
    columns = tuple(column or f"column_{number}" for number, column in enumerate(header, start=1))
    name = engine.next_name("scan")
    options = {
        "columns": "{" + ", ".join(f"{quoted(field)}: 'VARCHAR'" for field in _fields(columns)) + "}",
        "delim": quoted(config.delimiter),
        "quote": quoted(config.quote),
        "escape": quoted(config.quote),
        "header": str(config.header).lower(),
        "encoding": quoted(config.encoding),
        "strict_mode": "true",
    }
    select = f"SELECT row_number() OVER () AS {ROW}, * FROM {_read_csv(path, options, f'{name}_rejects')}"
    return Scan(
        path=path,
        kind="csv",
        rows=engine.view(name, select),
        engine=engine,
        num_header_lines=int(config.header),
        rejects_table=f"{name}_rejects",
        columns=columns,
        encoding=config.encoding,
    )


def scan_lines(engine: DuckDBEngine, path: Path) -> Scan:
    """Opens a file of JSON lines. Blank lines have a null LINE. Raises DataError when it is unreadable."""
    name = engine.next_name("scan")
    rows = engine.view(name, _lines_select(path, f"{name}_rejects"))
    return Scan(path=path, kind="jsonl", rows=rows, engine=engine, rejects_table=f"{name}_rejects")


def first_lines(path: Path, encoding: str) -> Iterator[str]:
    """Lines of the unzipped file, to examine its beginning. Raises DataError when it is unreadable."""
    opener: Any = gzip.open if is_gzip(path) else Path.open
    try:
        with opener(path, "rt", encoding=encoding, errors="replace", newline="") as source:
            yield from source
    except (OSError, EOFError) as error:
        raise DataError(f"{path}: unreadable: {error}") from error


def _fields(columns: Sequence[str]) -> list[str]:
    """Names of a file's columns in SQL, which does not tell names apart that differ in case only."""
    return [f"field_{number}" for number, _ in enumerate(columns, start=1)]


def _kind_of(path: Path) -> str:
    suffixes = [suffix.lower() for suffix in path.suffixes if suffix.lower() != ".gz"]
    kind = _SUFFIXES.get(suffixes[-1]) if suffixes else None
    if kind is None:
        raise ConfigError(f"{path.name}: the name does not tell the format; set file_format to csv, jsonl or parquet")
    return kind


def _header(path: Path, config: FileConfig) -> tuple[str, ...]:
    encoding = "utf-8-sig" if config.encoding == "utf-8" else config.encoding
    line = next(first_lines(path, encoding), "").rstrip("\r\n")
    if not line:
        raise DataError(f"{path}: the first line is blank, but should name the columns")
    if len(config.delimiter) > 1 or not config.quote:
        return tuple(line.split(config.delimiter))
    return tuple(next(csv.reader([line], delimiter=config.delimiter, quotechar=config.quote)))


def _lines_select(path: Path, rejects: str) -> str:
    options = {
        "columns": f"{{{quoted(LINE)}: 'VARCHAR'}}",
        "delim": quoted(_NO_DELIMITER),
        "quote": "''",
        "escape": "''",
        "header": "false",
        "encoding": "'utf-8'",
        # Files may mix line ends. With \r\n DuckDB reads \n as a line end too; with \n, it would read \r\n as two.
        "new_line": r"'\r\n'",
        "strict_mode": "false",
    }
    return f"SELECT row_number() OVER () AS {ROW}, {identifier(LINE)} FROM {_read_csv(path, options, rejects)}"


def _read_csv(path: Path, options: Mapping[str, str], rejects: str) -> str:
    arguments = {
        **options,
        "hive_partitioning": "false",
        "auto_detect": "false",
        "comment": "''",
        "compression": "'gzip'" if is_gzip(path) else "'none'",
        "max_line_size": str(_MAX_LINE_BYTES),
        "buffer_size": str(_BUFFER_BYTES),
        "ignore_errors": "true",
        "store_rejects": "true",
        "rejects_table": quoted(rejects),
        "rejects_scan": quoted(f"{rejects}_scan"),
    }
    return f"read_csv({file_list([path])}, {', '.join(f'{name} = {value}' for name, value in arguments.items())})"
