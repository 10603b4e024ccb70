"""Opens source files as scans: finds their format, checks their headers, and has DuckDB read them as one table."""

from __future__ import annotations

import csv
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from trainer.core.errors import ConfigError, DataError
from trainer.data.config import FileConfig
from trainer.data.duckdb_engine import DuckDBEngine, file_list, parquet_files, quoted
from trainer.data.encodings import UTF_8, known_encoding, proposed_encoding
from trainer.data.line_numbers import raw_lines
from trainer.data.plain_text import MAX_LINE_BYTES, Text
from trainer.data.quotes import Dialect
from trainer.data.scan import FILE, LINE, ROW, Part, Scan, field_names, listed, toml_string
from trainer.data.unpacking import PACKED_SUFFIXES, Packed, unpack
from trainer.dataset.parquet import column_types

_SUFFIXES: Final = {
    **dict.fromkeys((".csv", ".tsv", ".dat", ".txt", ".inter", ".item", ".user"), "csv"),
    **dict.fromkeys((".json", ".jsonl", ".ndjson"), "jsonl"),
    **dict.fromkeys((".parquet", ".pq"), "parquet"),
}
_NO_DELIMITER: Final = "\x01\x02\x1e\x1f"
"""Makes each line a single field: JSON has no unescaped control characters, and no file has these four in a row."""
_BUFFER_BYTES: Final = 32 << 20


def scan_table(engine: DuckDBEngine, paths: Sequence[Path], config: FileConfig) -> Scan:
    """Opens the files of a plain table. Raises ConfigError if their format is unknown, DataError if one is
    unreadable."""
    files = [unpack(path, config.member) for path in paths]
    kinds = [config.file_format if config.file_format != "auto" else _kind_of(file) for file in files]
    if other := next((file for file, kind in zip(files, kinds, strict=True) if kind != kinds[0]), None):
        raise ConfigError(f"{files[0].path.name} and {other.path.name} are of different formats; set file_format")
    if kinds[0] == "parquet":
        return _scan_parquet(engine, files)
    if wrong := next((file for file in files if file.is_parquet()), None):
        raise ConfigError(f'{wrong.path}: its content is Parquet; set file_format = "parquet"')
    if kinds[0] == "jsonl":
        return scan_lines(engine, files, known_encoding(config.encoding), id_keys=config.id_keys)
    return _scan_csv(engine, files, config)


def scan_lines(
    engine: DuckDBEngine, files: Sequence[Packed], encoding: str = UTF_8, *, id_keys: Sequence[str] = ()
) -> Scan:
    """Opens files of JSON lines. Blank lines have a null LINE. `id_keys` are the keys of a row's ids. Raises DataError
    when a file is unreadable."""
    name = engine.next_name("scan")
    texts = [Text(file, encoding) for file in files]
    parts = _alike(engine, [Part(text.packed, text.plain_json(engine.next_path(name), id_keys)) for text in texts])
    options = {
        "columns": f"{{{quoted(LINE)}: 'VARCHAR'}}",
        "delim": quoted(_NO_DELIMITER),
        "quote": "''",
        "escape": "''",
        "header": "false",
        # With \n, DuckDB would read \r\n as two line ends; with \r\n, it reads \n as a line end too.
        "new_line": r"'\r\n'",
        "strict_mode": "false",
    }
    source = _read_csv(name, parts, options)
    return Scan(
        path=files[0].path,
        parts=tuple(parts),
        kind="jsonl",
        rows=engine.view(name, f"SELECT row_number() OVER () AS {ROW}, * FROM {source}"),
        engine=engine,
        rejects_table=f"{name}_rejects",
    )


def _scan_csv(engine: DuckDBEngine, files: Sequence[Packed], config: FileConfig) -> Scan:
    encoding = known_encoding(config.encoding)
    texts = [Text(file, encoding) for file in files]
    headers = [_header(text, config) for text in texts] if config.header else [(config.columns, 0)] * len(texts)
    columns, num_header_lines = headers[0]
    for file, header in zip(files, headers, strict=True):
        if header != headers[0]:
            raise DataError(
                f"{file.path}: its header is not that of {files[0].path.name}: {listed(header[0])} instead of "
                f"{listed(columns)}"
            )
    escape = config.escape or config.quote
    dialect = Dialect(config.delimiter.encode(), config.quote.encode(), escape.encode(), len(columns))
    name = engine.next_name("scan")
    followed = dialect if config.quote else None
    parts = _alike(engine, [Part(text.packed, text.plain(engine.next_path(name), followed)) for text in texts])
    options = {
        "columns": "{" + ", ".join(f"{quoted(field)}: 'VARCHAR'" for field in field_names(columns)) + "}",
        "delim": quoted(config.delimiter),
        "quote": quoted(config.quote),
        "escape": quoted(escape),
        "header": str(config.header).lower(),
        "strict_mode": "true",
        # In parallel, DuckDB guesses at the middle of a file whether it is inside of quotes.
        "parallel": str(not any(part.plain and part.plain.has_records_of_several_lines for part in parts)).lower(),
    }
    for part in parts:
        if part.plain is not None and any(first <= num_header_lines for first, _ in part.plain.refused.intervals[:1]):
            reason = part.plain.refused.rejects[0].text
            raise DataError(f"{part.packed.path}: the first line, which names the columns: {reason}")
    select = f"SELECT row_number() OVER () AS {ROW}, * FROM {_read_csv(name, parts, options)}"
    if len(columns) == 1:
        # DuckDB skips blank lines only in files of several columns.
        select = f"SELECT * FROM ({select}) WHERE {field_names(columns)[0]} IS NOT NULL"
    return Scan(
        path=files[0].path,
        parts=tuple(parts),
        kind="csv",
        rows=engine.view(name, select),
        engine=engine,
        num_header_lines=num_header_lines,
        rejects_table=f"{name}_rejects",
        columns=columns,
        delimiter=config.delimiter,
    )


def _scan_parquet(engine: DuckDBEngine, files: Sequence[Packed]) -> Scan:
    name = engine.next_name("scan")
    paths = [_unpacked(engine, file) for file in files]
    columns, same_types = _columns_of_parquet(files, paths)
    if not same_types and len({column.lower() for column in columns}) < len(columns):
        raise DataError(f"{files[0].path}: the files differ in the types of columns whose names differ in case only")
    # A part without a value has another type in pandas; DuckDB finds the type that holds both if it goes by names.
    options = f", union_by_name = {str(not same_types).lower()}, filename = {quoted(FILE)}"
    fields = ", ".join((*field_names(columns), FILE))
    source = f"{parquet_files(paths, options)} AS files({fields})"
    return Scan(
        path=files[0].path,
        parts=tuple(Part(Packed(path, "")) for path in paths),
        kind="parquet",
        rows=engine.view(name, f"SELECT row_number() OVER () AS {ROW}, * FROM {source}"),
        engine=engine,
        columns=columns,
    )


def _columns_of_parquet(files: Sequence[Packed], paths: Sequence[Path]) -> tuple[tuple[str, ...], bool]:
    """Returns (the columns of all files, whether all have the same types). Raises DataError unless the names are the
    same."""
    types = []
    for file, path in zip(files, paths, strict=True):
        try:
            types.append(column_types(path))
        except (OSError, ValueError) as error:
            raise DataError(f"{file.path}: unreadable as Parquet: {error}") from error
        columns, expected = (tuple(name for name, _ in found) for found in (types[-1], types[0]))
        if columns != expected:
            raise DataError(
                f"{file.path}: its columns are not those of {files[0].path.name}: {listed(columns)} instead of "
                f"{listed(expected)}"
            )
    return columns, all(found == types[0] for found in types)


def _alike(engine: DuckDBEngine, parts: list[Part]) -> list[Part]:
    """The parts, unpacked unless all are packed alike: DuckDB reads them with one setting."""
    plain = [part.plain for part in parts if part.plain is not None]
    if len({text.packing for text in plain}) == 1:
        return parts
    return [
        Part(part.packed, replace(text, path=_unpacked(engine, Packed(text.path, text.packing)), packing=""))
        for part, text in zip(parts, plain, strict=True)
    ]


def _unpacked(engine: DuckDBEngine, file: Packed) -> Path:
    """The path of a file's content."""
    if not file.packing:
        return file.path
    path = engine.next_path("unpacked")
    with path.open("wb") as sink:
        sink.writelines(file.chunks())
    return path


def _kind_of(file: Packed) -> str:
    suffixes = [suffix.lower() for suffix in Path(file.name).suffixes if suffix.lower() not in PACKED_SUFFIXES]
    kind = _SUFFIXES.get(suffixes[-1]) if suffixes else None
    if kind is None:
        raise ConfigError(f"{file.name}: the name does not tell the format; set file_format to csv, jsonl or parquet")
    return kind


def _header(text: Text, config: FileConfig) -> tuple[tuple[str, ...], int]:
    """Names of the columns, and the number of lines of the header."""
    path, lines = text.packed.path, text.lines()
    line = next(lines, None)
    if line is None:
        raise DataError(f"{path}: the file is empty")
    if not line:
        raise DataError(f"{path}: the first line is blank, but should name the columns")
    if line.lower().startswith("sep=") and len(line) <= 5:
        raise DataError(f"{path}: the first line is {line!r}, which Excel adds; remove it, and set delimiter")
    if "\0" in line:
        raise DataError(f"{path}: the first line, which names the columns, has NUL bytes")
    if "\ufffd" in line:
        proposed = proposed_encoding(itertools.islice(raw_lines(text.packed), 1)) if text.encoding == UTF_8 else None
        raise DataError(
            f"{path}: the first line, which names the columns, has bytes that are not {text.encoding}"
            + (f"; set encoding = {toml_string(proposed)}" if proposed else "")
        )
    if len(config.delimiter) > 1 or not config.quote:
        names, num_lines = line.split(config.delimiter), 1
    else:
        escape = config.escape or None
        reader = csv.reader(
            (f"{each}\n" for each in itertools.chain([line], lines)),
            delimiter=config.delimiter,
            quotechar=config.quote,
            escapechar=escape,
            doublequote=escape is None,
            skipinitialspace=True,
        )
        try:
            names, num_lines = next(reader), reader.line_num
        except csv.Error as error:
            raise DataError(f"{path}: the first line, which names the columns, is no CSV: {error}") from error
    # pandas writes its index as a column without a name.
    return tuple(name or f"column_{number}" for number, name in enumerate(names, start=1)), num_lines


def _read_csv(name: str, parts: list[Part], options: Mapping[str, str]) -> str:
    plain = [part.plain for part in parts if part.plain is not None]
    arguments = {
        **options,
        "encoding": quoted(UTF_8),
        "hive_partitioning": "false",
        "auto_detect": "false",
        "comment": "''",
        "filename": quoted(FILE),
        "compression": quoted(plain[0].packing or "none"),
        "max_line_size": str(MAX_LINE_BYTES),
        "buffer_size": str(_BUFFER_BYTES),
        "ignore_errors": "true",
        "store_rejects": "true",
        "rejects_table": quoted(f"{name}_rejects"),
        "rejects_scan": quoted(f"{name}_rejects_scan"),
    }
    files = file_list([text.path for text in plain])
    return f"read_csv({files}, {', '.join(f'{name} = {value}' for name, value in arguments.items())})"
