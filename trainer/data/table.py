"""Reader of plain tables: CSV, JSON lines or Parquet, with columns as the configuration maps them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import ibis

from tandem.contract import names
from trainer.data import text
from trainer.data.config import FileConfig, InteractionsConfig, ItemsConfig, TableConfig, UsersConfig
from trainer.data.duckdb_engine import DuckDBEngine, duckdb_function
from trainer.data.raw import DEFECT, EXCERPT, POSITION, InteractionRules, RawData, RawTable
from trainer.data.report import BAD_JSON
from trainer.data.scan import LINE, ROW, Scan, scan_table, text_of

DOCUMENT: Final = "document"
"""Column of parsed JSON lines: the JSON object; null if the line is not an object."""

json_strings = duckdb_function("json_extract_string", ("json", "array<string>"), "array<string>")
"""(document, paths): the value at each path as text, or null. Numbers become text as they are written."""
json_string_list = duckdb_function("json_extract_string", ("json", "string"), "array<string>")
"""(document, path with [*]): all matching values as text; [] without a match."""
_json_type = duckdb_function("json_type", ("json",), "string")


def json_path(key: str) -> str:
    """The JSON path of a key at the top of an object."""
    escaped = key.replace("\\", "\\\\").replace('"', '\\"')
    return f'$."{escaped}"'


def documents(scan: Scan) -> Any:
    """The lines of a file as JSON objects: ROW, EXCERPT, DOCUMENT and DEFECT. Blank lines are not rows."""
    lines = scan.rows.filter(scan.rows[LINE].re_search(r"\S"))
    parsed = lines.mutate(lines[LINE].try_cast("json").name(DOCUMENT))
    document = ibis.cases((_json_type(parsed[DOCUMENT]) == "OBJECT", parsed[DOCUMENT]))
    return parsed.select(
        ROW,
        parsed[LINE].name(EXCERPT),
        document.name(DOCUMENT),
        ibis.cases((document.isnull(), BAD_JSON)).name(DEFECT),
    )


def read_table(engine: DuckDBEngine, config: TableConfig, files: Mapping[str, Path]) -> RawData:
    """Reads a plain table. `files` maps sections ("interactions", "items", "users") to local paths.

    Raises ConfigError when a mapped column does not exist or a file's format is unknown, DataError when a file is
    unreadable.
    """
    interactions = config.interactions
    event_types: Mapping[str, str] = {}
    if interactions.event_type:
        event_types = interactions.event_types or dict(zip(names.EVENT_TYPES, names.EVENT_TYPES, strict=True))
    return RawData(
        interactions=_read_interactions(engine, interactions, files["interactions"]),
        rules=InteractionRules(
            has_rating=bool(interactions.rating),
            timestamp_unit=interactions.timestamp_unit if interactions.timestamp else None,
            has_position=bool(interactions.position),
            event_types=event_types,
            default_event_type=interactions.default_event_type,
        ),
        items=_read_items(engine, config.items, files["items"]) if config.items else None,
        users=_read_users(engine, config.users, files["users"]) if config.users else None,
        feature_names=tuple(config.users.features) if config.users else (),
    )


def _read_interactions(engine: DuckDBEngine, config: InteractionsConfig, path: Path) -> RawTable:
    scan, rows = _open(engine, path, config)
    columns = {
        names.USER_ID: config.user,
        names.ITEM_ID: config.item,
        names.RATING: config.rating,
        names.TIMESTAMP: config.timestamp,
        POSITION: config.position,
        names.EVENT_TYPE: config.event_type,
    }
    return RawTable(role="interactions", scan=scan, rows=_select(scan, rows, "interactions", columns, {}))


def _read_items(engine: DuckDBEngine, config: ItemsConfig, path: Path) -> RawTable:
    scan, rows = _open(engine, path, config)
    columns = {names.ITEM_ID: config.id, names.TITLE: config.title, names.DESCRIPTION: config.description}
    attributes = {f"attribute_{index}": column for index, column in enumerate(config.attributes.values())}
    lists = {names.CATEGORIES: _categories(scan, rows, config)}
    rows = _select(scan, rows, "items", columns | attributes, lists)
    values = {name: rows[column] for name, column in zip(config.attributes, attributes, strict=True)}
    rows = rows.mutate(
        text.plain(rows[names.TITLE]).name(names.TITLE),
        text.plain(rows[names.DESCRIPTION]).name(names.DESCRIPTION),
        text.categories(rows[names.CATEGORIES]).name(names.CATEGORIES),
        text.string_map({name: text.unescape(value) for name, value in values.items()}).name(names.ATTRIBUTES),
    )
    return RawTable(role="items", scan=scan, rows=rows.drop(*attributes))


def _read_users(engine: DuckDBEngine, config: UsersConfig, path: Path) -> RawTable:
    scan, rows = _open(engine, path, config)
    return RawTable(
        role="users", scan=scan, rows=_select(scan, rows, "users", {names.USER_ID: config.id, **config.features}, {})
    )


def _open(engine: DuckDBEngine, path: Path, config: FileConfig) -> tuple[Scan, Any]:
    """Returns (scan, its rows): for JSON lines the columns of `documents`, else those of the scan."""
    scan = scan_table(engine, path, config)
    return scan, documents(scan) if scan.kind == "jsonl" else scan.rows


def _select(scan: Scan, rows: Any, section: str, columns: Mapping[str, str], lists: Mapping[str, Any]) -> Any:
    """Columns of the source as text, named as in `columns`; null if blank or if no column is configured."""
    configured = {name: column for name, column in columns.items() if column}
    if scan.kind == "jsonl":
        values = json_strings(rows[DOCUMENT], [json_path(column) for column in configured.values()])
        # In a separate step, so that a line is parsed once for all of its fields.
        rows = rows.mutate(values.name("field_values"), **lists)
        fields = {name: rows["field_values"][index] for index, name in enumerate(configured)}
        excerpt, defect = rows[EXCERPT], rows[DEFECT]
        lists = {name: rows[name] for name in lists}
    else:
        fields = {name: text_of(rows[scan.field(section, column)]) for name, column in configured.items()}
        excerpt = ibis.literal(", ").join([value.fill_null("") for value in fields.values()])
        defect = ibis.null("string")
    absent = {name: ibis.null("string") for name in columns if name not in configured}
    return rows.select(
        rows[ROW],
        excerpt.name(EXCERPT),
        defect.name(DEFECT),
        **{name: text.present(value) for name, value in fields.items()},
        **absent,
        **lists,
    )


def _categories(scan: Scan, rows: Any, config: ItemsConfig) -> Any:
    column, separator = config.categories, config.categories_separator
    if not column:
        return text.no_strings()
    if scan.kind == "jsonl":
        scalar = json_strings(rows[DOCUMENT], [json_path(column)])[0]
        listed = json_string_list(rows[DOCUMENT], f"{json_path(column)}[*]")
        split = scalar.split(separator) if separator else ibis.array([scalar])
        return ibis.cases((listed.length() > 0, listed), (scalar.startswith("["), listed), else_=split)
    listed = rows[scan.field("items", column)]
    if listed.type().is_array():
        return listed.map(text_of)
    value = text_of(listed)
    return value.split(separator) if separator else ibis.array([value])
