"""Reader of plain tables: CSV, JSON lines or Parquet, with columns as the configuration maps them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import ibis

from tandem.contract import names
from trainer.data import text
from trainer.data.config import FileConfig, InteractionsConfig, ItemsConfig, TableConfig, TimestampUnit, UsersConfig
from trainer.data.duckdb_engine import DuckDBEngine, duckdb_function
from trainer.data.list_texts import entries_of
from trainer.data.raw import DEFECT, EXCERPT, POSITION, InteractionRules, RawData, RawTable, feature_columns
from trainer.data.report import BAD_JSON
from trainer.data.scan import LINE, ROW, Scan
from trainer.data.scan_files import scan_table
from trainer.data.values import (
    column_of,
    document_fields,
    entries_present,
    holds_times,
    json_entries,
    json_paths,
    json_strings,
    json_types,
    present,
    table_fields,
    text_of,
)

DOCUMENT: Final = "document"
"""Column of parsed JSON lines: the JSON object; null if the line is not an object."""

_HOLDS_LISTS: Final = r'\[.*([\[{]|"\s*\()'
"""A list in JSON of which an entry is an object, a list, or perhaps the text of a list."""

_THOUSANDS: Final = r"^[+-]?[0-9]{1,3}(\.[0-9]{3})+(,|$)"
"""A number with a decimal comma, and points between its thousands."""

_json_type = duckdb_function("json_type", ("json",), "string")


def documents(scan: Scan, *, as_json: Callable[[Any], Any] | None = None) -> Any:
    """The lines of a file as JSON objects: ROW, EXCERPT, DOCUMENT and DEFECT. Blank lines are not rows.

    `as_json` makes JSON of lines in another notation, and null of a line that is wrong.
    """
    lines = scan.rows.filter(scan.rows[LINE].re_search(r"\S"))
    line = lines[LINE] if as_json is None else as_json(lines[LINE])
    parsed = lines.mutate(line.try_cast("json").name(DOCUMENT))
    document = ibis.cases((_json_type(parsed[DOCUMENT]) == "OBJECT", parsed[DOCUMENT]))
    return parsed.select(
        ROW,
        parsed[LINE].name(EXCERPT),
        document.name(DOCUMENT),
        ibis.cases((document.isnull(), BAD_JSON)).name(DEFECT),
    )


def read_table(engine: DuckDBEngine, config: TableConfig, files: Mapping[str, Sequence[Path]]) -> RawData:
    """Reads a plain table. `files` maps sections ("interactions", "items", "users") to the local paths of their files.

    Raises ConfigError when a mapped column does not exist or a file's format is unknown, DataError when a file is
    unreadable.
    """
    interactions = config.interactions
    event_types: Mapping[str, str] = {}
    if interactions.event_type:
        event_types = interactions.event_types or dict(zip(names.EVENT_TYPES, names.EVENT_TYPES, strict=True))
    rows, timestamp_unit = _read_interactions(engine, interactions, files["interactions"])
    return RawData(
        interactions=rows,
        rules=InteractionRules(
            has_rating=bool(interactions.rating),
            timestamp_unit=timestamp_unit,
            has_position=bool(interactions.position),
            has_weight=bool(interactions.weight),
            ignored_event_types=interactions.ignored_event_types,
            event_types=event_types,
            default_event_type=interactions.default_event_type,
        ),
        items=_read_items(engine, config.items, files["items"]) if config.items else None,
        users=_read_users(engine, config.users, files["users"]) if config.users else None,
        feature_names=tuple(config.users.features) if config.users else (),
    )


def _read_interactions(
    engine: DuckDBEngine, config: InteractionsConfig, paths: Sequence[Path]
) -> tuple[RawTable, TimestampUnit | None]:
    """Returns (the interactions, the unit of their times; None without times)."""
    scan, rows = _open(engine, paths, config)
    columns = {
        names.USER_ID: config.user,
        names.ITEM_ID: config.item,
        names.RATING: config.rating,
        names.TIMESTAMP: config.timestamp,
        POSITION: config.position,
        names.EVENT_TYPE: config.event_type,
        names.WEIGHT: config.weight,
    }
    rows = _select(scan, rows, "interactions", columns, config)
    if config.decimal == ",":
        numbers = (names.RATING, POSITION, names.WEIGHT)
        rows = rows.mutate(**{name: _with_decimal_point(rows[name]) for name in numbers})
    raw = RawTable(role="interactions", scan=scan, rows=rows)
    if not config.timestamp:
        return raw, None
    if scan.kind == "parquet" and holds_times(column_of(scan, "interactions", config.timestamp)):
        return raw, "iso"  # a column of times has a unit of its own, and becomes text in ISO 8601
    return raw, config.timestamp_unit


def _read_items(engine: DuckDBEngine, config: ItemsConfig, paths: Sequence[Path]) -> RawTable:
    scan, rows = _open(engine, paths, config)
    columns = {names.ITEM_ID: config.id, names.TITLE: config.title, names.DESCRIPTION: config.description}
    attributes = {f"attribute_{index}": column for index, column in enumerate(config.attributes.values())}
    rows = _select(scan, rows, "items", columns | attributes, config)
    values = {name: rows[column] for name, column in zip(config.attributes, attributes, strict=True)}
    rows = rows.mutate(
        text.plain(rows[names.TITLE]).name(names.TITLE),
        text.plain(rows[names.DESCRIPTION]).name(names.DESCRIPTION),
        text.categories(rows[names.CATEGORIES]).name(names.CATEGORIES),
        text.string_map({name: text.unescape(value) for name, value in values.items()}).name(names.ATTRIBUTES),
    )
    return RawTable(role="items", scan=scan, rows=rows.drop(*attributes))


def _read_users(engine: DuckDBEngine, config: UsersConfig, paths: Sequence[Path]) -> RawTable:
    scan, rows = _open(engine, paths, config)
    # Features may have any name, also one that is a column here already.
    features = dict(zip(feature_columns(len(config.features)), config.features.values(), strict=True))
    columns = {names.USER_ID: config.id, **features}
    return RawTable(role="users", scan=scan, rows=_select(scan, rows, "users", columns, config))


def _open(engine: DuckDBEngine, paths: Sequence[Path], config: FileConfig) -> tuple[Scan, Any]:
    """Returns (scan, its rows): for JSON lines the columns of `documents`, else those of the scan."""
    scan = scan_table(engine, paths, config)
    return scan, documents(scan) if scan.kind == "jsonl" else scan.rows


def _select(scan: Scan, rows: Any, section: str, columns: Mapping[str, str], config: FileConfig) -> Any:
    """Columns of the source as text, named as in `columns`, and the categories of items; null if missing or if no
    column is configured."""
    configured = {name: column for name, column in columns.items() if column}
    if scan.kind == "jsonl":
        rows, fields, defect = document_fields(rows, DOCUMENT, configured, config.nulls)
        excerpt, defect = rows[EXCERPT], ibis.coalesce(rows[DEFECT], defect)
    else:
        fields, defect = table_fields(scan, section, configured, config.nulls)
        excerpt = ibis.literal(", ").join([value.fill_null("") for value in fields.values()])
    absent = {name: ibis.null("string") for name in columns if name not in configured}
    listed = {names.CATEGORIES: _categories(scan, rows, config)} if isinstance(config, ItemsConfig) else {}
    return rows.select(rows[ROW], excerpt.name(EXCERPT), defect.name(DEFECT), **fields, **absent, **listed)


def _with_decimal_point(number: Any) -> Any:
    """A number with a decimal comma as one with a point. What may have separators of thousands, as 1.234 here, gets a
    comma for each, and is no number."""
    swapped = number.translate(",.", ".,")
    return ibis.cases((number.re_search(_THOUSANDS), swapped), else_=number.replace(",", "."))


def _categories(scan: Scan, rows: Any, config: ItemsConfig) -> Any:
    """The list of an item's categories, which the source may hold as a list, as the text of a list, or as one text."""
    key, separator = config.categories, config.categories_separator
    if not key:
        return text.no_strings()
    if scan.kind != "jsonl":
        column = column_of(scan, "items", key)
        kind = column.type()
        if kind.is_array() and not (kind.value_type.is_nested() or kind.value_type.is_string()):
            return entries_present(column.map(text_of), config.nulls)
        as_json = column.cast("json").cast("string") if kind.is_nested() else text_of(column)
        entries = entries_of(present(as_json, config.nulls), separator)
        if kind.is_array() and kind.value_type.is_string():
            entries = ibis.cases((~as_json.re_search(_HOLDS_LISTS), column), else_=entries)
        return entries_present(entries, config.nulls)
    return document_entries(rows[DOCUMENT], key, separator, config.nulls)


def document_entries(document: Any, key: str, separator: str, nulls: Sequence[str]) -> Any:
    """The entries of the list at a key of JSON documents, which may be a list, the text of a list, or one text."""
    paths = json_paths(key)
    values, types = json_strings(document, paths), json_types(document, paths)
    value = present(ibis.coalesce(*(values[index] for index in range(len(paths)))), nulls)
    is_list = ibis.or_(*((types[index] == "ARRAY").fill_null(False) for index in range(len(paths))))
    # A list of plain texts, as most are, is read without Python: no entry is an object, a list, or the text of a list.
    is_plain = is_list & ~value.re_search(_HOLDS_LISTS)
    entries = ibis.cases((is_plain, json_entries(document, paths)), else_=entries_of(value, separator))
    return entries_present(entries, nulls)
