"""Reader of Amazon Reviews in the official formats of 2014, 2018 and 2023, recognised by their fields.

Reviews of 2014 and 2018 have the same fields. Metadata of 2014 is distributed as Python literals, one dict per line.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Mapping, Sequence
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
from trainer.data.list_texts import literal_documents
from trainer.data.raw import DEFECT, EXCERPT, POSITION, InteractionRules, RawData, RawTable
from trainer.data.report import CATEGORY_IS_MARKUP, PRICE_UNPARSABLE, TEXT_IS_SCRIPT
from trainer.data.scan import ROW, Scan
from trainer.data.scan_files import scan_lines
from trainer.data.table import DOCUMENT, document_entries, documents
from trainer.data.unpacking import unpack
from trainer.data.values import document_fields, json_string_list

_NUM_LINES_EXAMINED: Final = 1_000
_PRICE: Final = r"^\$?\s*([0-9][0-9,]*(?:\.[0-9]+)?)$"
_NULLS: Final = ("\\N",)


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
_META_LITERAL: Final = _MetaFields("asin", "categories", "[*][*]", "brand", "brand", "literal")


def read_amazon(engine: DuckDBEngine, files: Mapping[str, Sequence[Path]]) -> RawData:
    """Reads reviews and, if given, metadata. `files` maps "reviews" and "meta" to the local paths of their files.

    Raises DataError when a file is unreadable or has the fields of no official format.
    """
    reviews = _scan(engine, files["reviews"])
    fields = _review_fields(reviews)
    return RawData(
        interactions=_read_reviews(reviews, fields),
        rules=InteractionRules(
            has_rating=True,
            timestamp_unit=fields.timestamp_unit,
            has_position=False,
            event_types={},
            default_event_type="rating",
        ),
        items=_read_meta(_scan(engine, files["meta"])) if "meta" in files else None,
    )


def _scan(engine: DuckDBEngine, paths: Sequence[Path]) -> Scan:
    return scan_lines(engine, [unpack(path) for path in paths])


def _read_reviews(scan: Scan, fields: _ReviewFields) -> RawTable:
    columns = {
        names.USER_ID: fields.user,
        names.ITEM_ID: fields.item,
        names.RATING: fields.rating,
        names.TIMESTAMP: fields.timestamp,
    }
    rows, values, defect = document_fields(documents(scan), DOCUMENT, columns, _NULLS)
    absent = {column: ibis.null("string") for column in (POSITION, names.EVENT_TYPE, names.WEIGHT)}
    selected = rows.select(ROW, EXCERPT, ibis.coalesce(rows[DEFECT], defect).name(DEFECT), **values, **absent)
    return RawTable(role="interactions", scan=scan, rows=selected)


def _read_meta(scan: Scan) -> RawTable:
    fields = _meta_fields(scan)
    columns = {
        names.ITEM_ID: fields.item,
        names.TITLE: "title",
        names.DESCRIPTION: "description",
        fields.brand_attribute: fields.brand,
        "price": "price",
    }
    lines = documents(scan, as_json=literal_documents if fields.syntax == "literal" else None)
    rows, values, defect = document_fields(lines, DOCUMENT, columns, _NULLS)
    description = values[names.DESCRIPTION].fill_null("")
    if fields.item == "parent_asin":
        # In 2023, most of the text is in `features`.
        features = json_string_list(rows[DOCUMENT], "$.features[*]").filter(lambda paragraph: paragraph.notnull())
        description = description + " " + features.join(" ").fill_null("")
    texts = {names.TITLE: values[names.TITLE].fill_null(""), names.DESCRIPTION: description}
    entries = _categories(rows[DOCUMENT], fields).filter(lambda entry: entry.notnull())
    price, brand = values["price"], text.plain(values[fields.brand_attribute])
    amount = ibis.cases((price.re_search(_PRICE), price.re_extract(_PRICE, 1).replace(",", "")))
    selected = rows.select(
        ROW,
        EXCERPT,
        ibis.coalesce(rows[DEFECT], defect).name(DEFECT),
        values[names.ITEM_ID].name(names.ITEM_ID),
        *(text.plain(ibis.cases((~text.is_script(value), value))).name(name) for name, value in texts.items()),
        text.categories(entries.filter(lambda entry: ~text.is_markup(entry))).name(names.CATEGORIES),
        text.string_map({fields.brand_attribute: ibis.cases((brand != "", brand)), "price": amount}).name(
            names.ATTRIBUTES
        ),
        ibis.or_(*map(text.is_script, texts.values())).name(TEXT_IS_SCRIPT),
        (price.notnull() & amount.isnull()).fill_null(False).name(PRICE_UNPARSABLE),
        (entries.filter(text.is_markup).length() > 0).fill_null(False).name(CATEGORY_IS_MARKUP),
    )
    notes = (TEXT_IS_SCRIPT, PRICE_UNPARSABLE, CATEGORY_IS_MARKUP)
    return RawTable(role="items", scan=scan, rows=selected, notes=notes)


def _categories(document: Any, fields: _MetaFields) -> Any:
    """The categories, which some files hold as a text or as the text of a list."""
    listed = json_string_list(document, f"$.{fields.categories}{fields.category_path}")
    return ibis.cases((listed.length() > 0, listed), else_=document_entries(document, fields.categories, "", _NULLS))


def _review_fields(scan: Scan) -> _ReviewFields:
    for line in islice(scan.lines(), _NUM_LINES_EXAMINED):
        for fields in _REVIEWS:
            if fields.required <= _keys(line):
                return fields
    raise _unknown(scan.path, "reviews", [fields.required for fields in _REVIEWS])


def _meta_fields(scan: Scan) -> _MetaFields:
    for line in islice(scan.lines(), _NUM_LINES_EXAMINED):
        for fields in _META:
            if fields.required <= _keys(line):
                return fields
        if _META_LITERAL.required <= _literal_keys(line):
            return _META_LITERAL
    raise _unknown(scan.path, "metadata", [fields.required for fields in _META])


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
