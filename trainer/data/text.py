"""Ibis expressions that clean text: HTML entities, tags, white space, lists of categories."""

from __future__ import annotations

from html.entities import name2codepoint
from typing import Any, Final

import ibis

from trainer.data.duckdb_engine import connection_value, duckdb_function, set_on_connections

_TOKENS: Final = r"&[A-Za-z0-9#]{1,32};|[^&]+|&"
_TAG: Final = r"<[^<>]*>"
_SPACE: Final = r"[\s\x{A0}]+"
_SCRIPT: Final = r"var aPageStart\b|\(new Date\(\)\)\.getTime\(\)|<script\b|\bamznJQ\.|\bP\.when\("
_MAX_CATEGORY_LENGTH: Final = 60
"""Characters. The 2018 metadata holds sentences and scraped HTML among the categories; real ones are shorter."""

_ENTITIES: Final = "tandem_entities"
set_on_connections(_ENTITIES, {name: chr(code) for name, code in name2codepoint.items()})
_regexp_extract_all = duckdb_function("regexp_extract_all", ("string", "string"), "array<string>")
_chr = duckdb_function("chr", ("int32",), "string")


def unescape(text: Any) -> Any:
    """Replaces HTML entities by characters, once: "&amp;amp;" becomes "&amp;". Unknown entities stay."""
    named = connection_value(_ENTITIES, "map<string, string>")

    def character(token: Any) -> Any:
        body = token.substr(1, token.length() - 2)
        number = ibis.cases(
            (token.re_search(r"^&#[0-9]{1,7};$"), body.substr(1).try_cast("int32")),
            (token.re_search(r"^&#[xX][0-9A-Fa-f]{1,6};$"), ("0x" + body.substr(2)).try_cast("int32")),
        )
        valid = number.between(32, 0xD7FF) | number.between(0xE000, 0x10FFFF)
        return ibis.cases(
            (valid, _chr(number)),
            ((token.length() > 2) & token.startswith("&"), named.get(body, token)),
            else_=token,
        )

    # Most texts have no entity and are not tokenised.
    return ibis.cases((text.contains("&"), _regexp_extract_all(text, _TOKENS).map(character).join("")), else_=text)


def plain(text: Any) -> Any:
    """Text without tags and entities, with runs of white space as single spaces; "" for null."""
    return unescape(text.re_replace(_TAG, " ")).re_replace(_SPACE, " ").strip().fill_null("")


def categories(entries: Any) -> Any:
    """A list of category names in order, without entities, blanks and duplicates; [] for null."""
    names = entries.filter(lambda entry: entry.notnull()).map(lambda entry: unescape(entry).strip())
    names = names.filter(lambda entry: entry != "")
    return ibis.coalesce(names.filter(lambda entry, index: names.index(entry) == index), no_strings())


def is_markup(entry: Any) -> Any:
    """Whether an entry is not a category: it contains a tag, or is as long as a sentence."""
    return entry.re_search(r"<[A-Za-z/!]") | (entry.length() > _MAX_CATEGORY_LENGTH)


def is_script(text: Any) -> Any:
    """Whether a text is JavaScript, which was scraped from a page instead of the text of its product."""
    return text.re_search(_SCRIPT).fill_null(False)


def string_map(values: dict[str, Any]) -> Any:
    """A map of the values that are not null."""
    if not values:
        return empty_map()
    keys = ibis.array([ibis.cases((value.notnull(), key)) for key, value in values.items()])
    return ibis.map(
        keys.filter(lambda key: key.notnull()),
        ibis.array(list(values.values())).filter(lambda value: value.notnull()),
    )


def empty_map() -> Any:
    """An empty map of strings."""
    return ibis.map(no_strings(), no_strings())


def no_strings() -> Any:
    """An empty list of strings."""
    # An empty literal would reach DuckDB, and Parquet, as a list of nulls.
    return ibis.array([ibis.null("string")]).filter(lambda entry: entry.notnull())
