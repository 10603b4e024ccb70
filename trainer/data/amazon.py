"""Reader of Amazon Reviews in the official formats of 2014, 2018 and 2023, recognised by their fields.

Reviews of 2014 and 2018 have the same fields. Metadata of 2014 is distributed as Python literals, one dict per line;
DuckDB parses them as structs, with one loss: an escape such as \\xe9 loses its backslash.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Final, Literal

import ibis

from tandem.contract import names
from trainer.core.errors import DataError
from trainer.data import text
from trainer.data.config import TimestampUnit
from trainer.data.duckdb_engine import DuckDBEngine
from trainer.data.raw import DEFECT, EXCERPT, POSITION, InteractionRules, RawData, RawTable
from trainer.data.report import BAD_JSON, CATEGORY_IS_MARKUP, PRICE_UNPARSABLE
from trainer.data.scan import LINE, ROW, first_lines, scan_lines
from trainer.data.table import DOCUMENT, documents, json_path, json_string_list, json_strings

_NUM_LINES_EXAMINED: Final = 1_000
_PRICE: Final = r"^\$?\s*([0-9][0-9,]*(?:\.[0-9]+)?)$"
# All fields of the official files: DuckDB does not cast a struct with a field that the type lacks.
_LITERAL_TYPE: Final = (
    "struct<asin: string, title: string, description: string, brand: string, price: string,"
    " categories: array<array<string>>, imUrl: string, related: string, salesRank: string>"
)


@dataclass(frozen=True)
class _ReviewFields:
    user: str
    item: str
    rating: str
    timestamp: str
    timestamp_unit: TimestampUnit

    @property
    def required(self) -> frozenset[str]:
        return frozenset((self.user, self.item, self.rating, self.timestamp))


@dataclass(frozen=True)
class _MetaFields:
    item: str
    categories: str
    category_path: str
    """JSON path of the category names below `categories`."""
    brand: str
    brand_attribute: str
    syntax: Literal["json", "literal"] = "json"

    @property
    def required(self) -> frozenset[str]:
        return frozenset((self.item, self.categories))


_REVIEWS: Final = (
    _ReviewFields("reviewerID", "asin", "overall", "unixReviewTime", "seconds"),
    _ReviewFields("user_id", "parent_asin", "rating", "timestamp", "milliseconds"),
)
_META: Final = (
    _MetaFields("parent_asin", "categories", "[*]", "store", "store"),
    _MetaFields("asin", "category", "[*]", "brand", "brand"),
    _MetaFields("asin", "categories", "[*][*]", "brand", "brand"),
)
_META_LITERAL: Final = _MetaFields("asin", "categories", "", "brand", "brand", "literal")


def read_amazon(engine: DuckDBEngine, files: Mapping[str, Path]) -> RawData:
    """Reads reviews and, if given, metadata. `files` maps "reviews" and "meta" to local paths.

    Raises DataError when a file is unreadable or has the fields of no official format.
    """
    fields = _review_fields(files["reviews"])
    return RawData(
        interactions=_read_reviews(engine, files["reviews"], fields),
        rules=InteractionRules(
            has_rating=True,
            timestamp_unit=fields.timestamp_unit,
            has_position=False,
            event_types={},
            default_event_type="rating",
        ),
        items=_read_meta(engine, files["meta"]) if "meta" in files else None,
    )


def _read_reviews(engine: DuckDBEngine, path: Path, fields: _ReviewFields) -> RawTable:
    scan = scan_lines(engine, path)
    columns = {
        names.USER_ID: fields.user,
        names.ITEM_ID: fields.item,
        names.RATING: fields.rating,
        names.TIMESTAMP: fields.timestamp,
    }
    rows = _with_values(documents(scan), tuple(columns.values()))
    absent = {column: ibis.null("string") for column in (POSITION, names.EVENT_TYPE)}
    selected = rows.select(
        ROW, EXCERPT, DEFECT, **{name: text.present(rows[column]) for name, column in columns.items()}, **absent
    )
    return RawTable(role="interactions", scan=scan, rows=selected)


def _read_meta(engine: DuckDBEngine, path: Path) -> RawTable:
    scan = scan_lines(engine, path)
    fields = _meta_fields(path)
    if fields.syntax == "literal":
        rows = _literals(scan.rows)
    else:
        rows = _with_values(documents(scan), (fields.item, "title", "description", fields.brand, "price"))
        document = rows[DOCUMENT]
        rows = rows.mutate(
            rows[fields.item].name(names.ITEM_ID),
            rows[fields.brand].name(fields.brand_attribute),
            json_string_list(document, json_path(fields.categories) + fields.category_path).name(names.CATEGORIES),
            _paragraphs(rows, with_features=fields.item == "parent_asin").name(names.DESCRIPTION),
        )
    entries = rows[names.CATEGORIES].filter(lambda entry: entry.notnull())
    price = text.present(rows["price"]).strip()
    amount = ibis.cases((price.re_search(_PRICE), price.re_extract(_PRICE, 1).replace(",", "")))
    brand = ibis.cases((text.plain(rows[fields.brand_attribute]) != "", text.plain(rows[fields.brand_attribute])))
    selected = rows.select(
        ROW,
        EXCERPT,
        DEFECT,
        text.present(rows[names.ITEM_ID]).name(names.ITEM_ID),
        text.plain(rows[names.TITLE]).name(names.TITLE),
        text.plain(rows[names.DESCRIPTION]).name(names.DESCRIPTION),
        text.categories(entries.filter(lambda entry: ~text.is_markup(entry))).name(names.CATEGORIES),
        text.string_map({fields.brand_attribute: brand, "price": amount}).name(names.ATTRIBUTES),
        (price.notnull() & amount.isnull()).fill_null(False).name(PRICE_UNPARSABLE),
        (entries.filter(text.is_markup).length() > 0).fill_null(False).name(CATEGORY_IS_MARKUP),
    )
    return RawTable(role="items", scan=scan, rows=selected, notes=(PRICE_UNPARSABLE, CATEGORY_IS_MARKUP))


def _with_values(rows: Any, keys: tuple[str, ...]) -> Any:
    """Adds a text column for each key; each line is parsed once for all keys."""
    rows = rows.mutate(json_strings(rows[DOCUMENT], [json_path(key) for key in keys]).name("field_values"))
    return rows.mutate(**{key: rows["field_values"][index] for index, key in enumerate(keys)})


def _paragraphs(rows: Any, *, with_features: bool) -> Any:
    """The description: a string in some files, a list in others. In 2023, most of the text is in `features`."""
    listed = json_string_list(rows[DOCUMENT], "$.description[*]")
    if with_features:
        listed = listed.concat(json_string_list(rows[DOCUMENT], "$.features[*]"))
    joined = listed.filter(lambda paragraph: paragraph.notnull()).join(" ")
    # A list as text begins with a bracket; `listed` has its entries already.
    scalar = ibis.cases((~rows["description"].startswith("["), rows["description"] + " "), else_="")
    return scalar.fill_null("") + joined.fill_null("")


def _literals(lines: Any) -> Any:
    """Lines of Python literals, one dict each, as the columns of `_read_meta`."""
    lines = lines.filter(lines[LINE].re_search(r"\S"))
    rows = lines.mutate(lines[LINE].replace("\\n", " ").try_cast(_LITERAL_TYPE).name("parsed"))
    parsed = rows["parsed"]
    return rows.select(
        ROW,
        rows[LINE].name(EXCERPT),
        ibis.cases((parsed.isnull(), BAD_JSON)).name(DEFECT),
        parsed["asin"].name(names.ITEM_ID),
        parsed["title"].name(names.TITLE),
        parsed["description"].name(names.DESCRIPTION),
        parsed["brand"].name("brand"),
        parsed["price"].name("price"),
        parsed["categories"].flatten().name(names.CATEGORIES),
    )


def _review_fields(path: Path) -> _ReviewFields:
    for line in islice(first_lines(path, "utf-8"), _NUM_LINES_EXAMINED):
        for fields in _REVIEWS:
            if fields.required <= _keys(line):
                return fields
    raise _unknown(path, "reviews", [fields.required for fields in _REVIEWS])


def _meta_fields(path: Path) -> _MetaFields:
    for line in islice(first_lines(path, "utf-8"), _NUM_LINES_EXAMINED):
        for fields in _META:
            if fields.required <= _keys(line):
                return fields
        if _META_LITERAL.required <= _literal_keys(line):
            return _META_LITERAL
    raise _unknown(path, "metadata", [fields.required for fields in _META])


def _keys(line: str) -> frozenset[str]:
    try:
        document = json.loads(line)
    except ValueError:
        return frozenset()
    return frozenset(document) if isinstance(document, dict) else frozenset()


def _literal_keys(line: str) -> frozenset[str]:
    try:
        value = ast.literal_eval(line)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return frozenset()
    return frozenset(str(key) for key in value) if isinstance(value, dict) else frozenset()


def _unknown(path: Path, role: str, formats: list[frozenset[str]]) -> DataError:
    expected = "; or ".join(", ".join(sorted(fields)) for fields in formats)
    return DataError(
        f"{path}: none of its first {_NUM_LINES_EXAMINED} lines has the fields of Amazon {role}: {expected}"
    )
