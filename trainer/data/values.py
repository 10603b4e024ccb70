"""What a value of a source file means, in one way for every format: as text, as missing, as an id."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import ibis

from tandem.contract import names
from trainer.core.errors import ConfigError
from trainer.data.duckdb_engine import duckdb_function
from trainer.data.report import BAD_ID, ID_IMPRECISE, REPEATED_HEADER, REPEATED_KEY, TIME_IMPRECISE
from trainer.data.scan import Scan

_BLANKS: Final = r"[\s\pZ\x{0}-\x{1F}\x{7F}-\x{9F}\x{200B}-\x{200F}\x{2060}\x{FEFF}]+"
"""White space of all kinds, control characters, and characters of no width, among them the byte order mark."""
_OUTER_BLANKS: Final = f"^{_BLANKS}|{_BLANKS}$"
_ID_COLUMNS: Final = frozenset({names.USER_ID, names.ITEM_ID})
_TEXT_COLUMNS: Final = frozenset({names.TITLE, names.DESCRIPTION})
SHORTENED: Final = r"^-?[0-9]\.[0-9]{5}E\+[0-9]{2}$"
"""How Excel writes numbers of twelve and more digits into a file: the last of them are lost."""
_VALUES: Final = "field_values"
_TYPES: Final = "field_types"
_KEYS: Final = "field_keys"
_EXACT_INTEGERS: Final = {"float16": 1 << 11, "float32": 1 << 24, "float64": 1 << 53}
"""Floating-point type -> the largest whole number below which it holds every whole number."""
_SHORT_FLOATS: Final = ("float16", "float32")

json_strings = duckdb_function("json_extract_string", ("json", "array<string>"), "array<string>")
"""(document, paths): the value at each path as text, or null. Numbers become text as they are written."""
json_string_list = duckdb_function("json_extract_string", ("json", "string"), "array<string>")
"""(document, path with [*]): all matching values as text; [] without a match."""
json_types = duckdb_function("json_type", ("json", "array<string>"), "array<string>")
"""(document, paths): the type of the value at each path, "OBJECT" for example, or null."""
_json_keys = duckdb_function("json_keys", ("json",), "array<string>")
_decode = duckdb_function("decode", ("binary",), "string")
_try = duckdb_function("try", ("string",), "string")


def present(text: Any, nulls: Sequence[str]) -> Any:
    """The text without blanks around it; null if nothing is left, or if it is one of `nulls`."""
    stripped = text.re_replace(_OUTER_BLANKS, "")
    missing = stripped == ""
    return ibis.cases((~(missing | stripped.isin(nulls) if nulls else missing), stripped))


def entries_present(entries: Any, nulls: Sequence[str]) -> Any:
    """The entries of a list of texts that are neither null nor one of `nulls`."""
    return entries.filter(lambda entry: entry.notnull() & ~entry.strip().isin(nulls) if nulls else entry.notnull())


def text_of(column: Any, nulls: Sequence[str] = ()) -> Any:
    """A column of any type as text. NaN is null; a whole number that pandas stored as a float because of missing values
    (5.0) is "5"; bytes are UTF-8; the entries of a list that are present are joined by blanks."""
    kind = column.type()
    if kind.is_floating():
        whole, written = column.try_cast("int64"), column.cast("string")
        # DuckDB takes isnan() for false where the statistics of a Parquet file say so, which leave NaN out.
        is_nan = written.isin(("nan", "-nan"))
        return ibis.cases((is_nan, ibis.null("string")), (column == whole, whole.cast("string")), else_=written)
    if kind.is_binary():
        return _try(_decode(column))
    if kind.is_array():
        return entries_present(column.map(text_of), nulls).join(" ")
    return column.cast("string")


def holds_times(column: Any) -> bool:
    """Whether a column has a type of dates or times."""
    kind = column.type()
    # Ibis does not know DuckDB's nanoseconds with a time zone.
    return bool(kind.is_temporal() or (kind.is_unknown() and "TIMESTAMP" in str(kind)))


def json_paths(key: str) -> tuple[str, ...]:
    """The JSON paths that a key may mean, the first first: a key of that name, or one below objects ("user.id")."""
    steps = key.split(".")
    return (_path([key]),) if len(steps) == 1 or "" in steps else (_path([key]), _path(steps))


def document_fields(
    rows: Any, document: str, columns: Mapping[str, str], nulls: Sequence[str]
) -> tuple[Any, dict[str, Any], Any]:
    """Rows with JSON in the column `document` -> (the rows with further columns, text by name of `columns`, defect).

    The texts and the defect, why a document is unreadable or null, are expressions of the rows returned.
    """
    paths = {name: json_paths(key) for name, key in columns.items()}
    # Types are read where they matter: an id may be an object, a text a list.
    typed = [name for name in columns if name in _ID_COLUMNS | _TEXT_COLUMNS]
    used = sorted({step for key in columns.values() for step in (key, key.split(".")[0])})
    # In a step of its own, so that a line is parsed once for all of its fields.
    rows = rows.mutate(
        json_strings(rows[document], [path for name in columns for path in paths[name]]).name(_VALUES),
        json_types(rows[document], [path for name in typed for path in paths[name]]).name(_TYPES),
        _json_keys(rows[document]).filter(lambda key: key.isin(used)).name(_KEYS),
    )
    defects = [(rows[_KEYS].unique().length() < rows[_KEYS].length(), REPEATED_KEY)]
    values, kinds = iter(range(sum(map(len, paths.values())))), iter(range(sum(len(paths[name]) for name in typed)))
    fields: dict[str, Any] = {}
    for name in columns:
        found = [rows[_VALUES][next(values)] for _ in paths[name]]
        value = ibis.coalesce(*found)
        if name in typed:
            kind = ibis.coalesce(*(ibis.cases((text.notnull(), rows[_TYPES][next(kinds)])) for text in found))
            if name in _TEXT_COLUMNS:
                joined = entries_present(json_entries(rows[document], paths[name]), nulls).join(" ")
                value = ibis.cases((kind == "ARRAY", joined), else_=value)
            else:
                imprecise = value.try_cast("float64").abs() > _EXACT_INTEGERS["float64"]
                defects += [
                    *((value.isnull() & inner, BAD_ID) for inner in _are_lists(rows[document], columns[name])),
                    (value.re_search(SHORTENED), ID_IMPRECISE),
                    (kind.isin(("OBJECT", "ARRAY")), BAD_ID),
                    ((kind == "DOUBLE") & value.contains(".") & imprecise, ID_IMPRECISE),
                ]
        fields[name] = present(value, nulls)
    return rows, fields, ibis.cases(*defects)


def table_fields(
    scan: Scan, section: str, columns: Mapping[str, str], nulls: Sequence[str]
) -> tuple[dict[str, Any], Any]:
    """The columns of a CSV or Parquet file -> (text by name, the defect of the ids or null).

    Raises ConfigError if there is no such column, or if an id is a struct or a list.
    """
    fields, defects = {}, []
    for name, key in columns.items():
        column = column_of(scan, section, key)
        kind = column.type()
        if name in _ID_COLUMNS:
            if kind.is_nested():
                kind_name = type(kind).__name__.lower()
                raise ConfigError(
                    f"{section}: {scan.path.name}: column {key!r} is a {kind_name}, and an id must be a text or a "
                    f'number; name a field inside it, for example "{key}.id"'
                )
            if kind.is_floating():
                limit = _EXACT_INTEGERS[str(kind).removeprefix("!")]
                defects.append((text_of(column).notnull() & (column.abs() > limit), ID_IMPRECISE))
            elif kind.is_string():
                defects.append((column.strip().re_search(SHORTENED), ID_IMPRECISE))
            elif kind.is_binary():
                defects.append((column.notnull() & text_of(column).isnull(), BAD_ID))
        elif name == names.TIMESTAMP and str(kind).removeprefix("!") in _SHORT_FLOATS:
            limit = _EXACT_INTEGERS[str(kind).removeprefix("!")]
            defects.append((text_of(column).notnull() & (column.abs() > limit), TIME_IMPRECISE))
        fields[name] = present(text_of(column, nulls), nulls)
    if scan.num_header_lines:
        defects = [(_is_header(fields, columns), REPEATED_HEADER), *defects]
    return fields, ibis.cases(*defects) if defects else ibis.null("string")


def column_of(scan: Scan, section: str, key: str) -> Any:
    """The column of a key, which may lead into structs ("user.id"). Raises ConfigError if there is none."""
    first, *steps = key.split(".")
    try:
        return scan.rows[scan.field(section, key)]
    except ConfigError:
        if not steps or first not in scan.columns:
            raise
        column = scan.rows[scan.field(section, first)]
        for step in steps:
            if column.type().is_array():
                raise ConfigError(
                    f"{section}: {scan.path.name}: {key!r} is inside of a list, and a row has one value: write a row "
                    "for each entry of the list"
                ) from None
            if not column.type().is_struct() or step not in column.type().names:
                raise
            column = column[step]
        return column


def _is_header(fields: Mapping[str, Any], columns: Mapping[str, str]) -> Any:
    """Whether a row names the columns once more, or is a line of dashes, as some programs draw below the header."""
    names_columns = [(fields[name] == key.strip()).fill_null(False) for name, key in columns.items()]
    is_line = [fields[name].re_search(r"^--+$").fill_null(False) for name in columns]
    return ibis.and_(*names_columns) | ibis.and_(*is_line)


def _are_lists(document: Any, key: str) -> list[Any]:
    """Whether there is a list, for each place above the value of a key with dots."""
    steps = key.split(".")[:-1]
    paths = [_path(steps[:number]) for number in range(1, len(steps) + 1)]
    return [(json_types(document, [path])[0] == "ARRAY").fill_null(False) for path in paths]


def json_entries(document: Any, paths: Sequence[str]) -> Any:
    """The entries of the lists at the paths as text; [] where there is no list."""
    first, *others = (json_string_list(document, f"{path}[*]") for path in paths)
    return first.concat(*others) if others else first


def _path(steps: Sequence[str]) -> str:
    escaped = (step.replace("\\", "\\\\").replace('"', '\\"') for step in steps)
    return "$" + "".join(f'."{step}"' for step in escaped)
