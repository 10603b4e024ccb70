"""Lists that a source holds as text, in JSON or as Python writes them: "['Action', 'Indie']" is a list of two.

Python's own parser reads Python's literals, row by row in DuckDB's stream: no other parser knows all of their escapes.
"""

from __future__ import annotations

import ast
import io
import json
import re
import threading
import tokenize
import warnings
from collections.abc import Iterator, Mapping
from typing import Any, Final

import ibis

from trainer.data.duckdb_engine import duckdb_function, python_function

_NAME_KEYS: Final = ("name", "title", "label", "value")
"""Keys under which an object has the name of a category: {"id": 18, "name": "Drama"}."""
_ENTRY: Final = r'"(?:[^"\\]|\\.)*"|[^\s{}"\\,:\'][^{}"\\,:\']*'
_ARRAY: Final = re.compile(rf"\s*\{{(?:{_ENTRY})(?:,(?:{_ENTRY}))*\}}\s*")
"""An array as PostgreSQL writes it: {Action,"Sci Fi",NULL}."""
_ARRAY_ENTRY: Final = re.compile(r'"(?P<quoted>(?:[^"\\]|\\.)*)"|(?P<bare>[^\s{}"\\,][^{}"\\,]*)')
_NOT_A_LITERAL: Final = (ValueError, SyntaxError, TypeError, MemoryError, RecursionError)
_warning_filters: Final = threading.Lock()
"""`warnings.catch_warnings` replaces filters of the whole process, and DuckDB may call from several threads."""


def entries_of(value: Any, separator: str) -> Any:
    """Text -> the entries of the list that it holds, else its parts between separators; an empty separator splits
    nothing. "[PC] Action" holds no list."""
    split = value.split(separator) if separator else ibis.array([value])
    as_json = ibis.cases((value.re_search(r"^\s*[\[({]"), _list_json(value)), else_="").nullif("")
    return ibis.cases((as_json.notnull(), _json_strings(as_json.try_cast("json"), "$[*]")), else_=split)


def list_in_text(text: str) -> list[str] | None:
    """The entries, as text, of the list that a text holds in JSON, as a Python literal, or as PostgreSQL writes an
    array; None if it holds no list.

    Lists inside the list are flattened. An object counts by its names, see `_names_in`, or is kept as JSON; an
    object with names alone is a list of them.
    """
    if _ARRAY.fullmatch(text):
        return _entries_of_array(text)
    value = _parsed(text)
    if isinstance(value, dict) and _names_in(value) is not None:
        value = [value]
    return list(_entries(value)) if isinstance(value, list | tuple) else None


def _entries_of_array(text: str) -> list[str]:
    found = [match for match in _ARRAY_ENTRY.finditer(text) if match[0]]
    return [
        match["bare"] if match["quoted"] is None else re.sub(r"\\(.)", r"\1", match["quoted"])
        for match in found
        if match["bare"] != "NULL"
    ]


def literal_json(line: str) -> str:
    """A dict that is written as a Python literal, as JSON; empty if the line holds none."""
    value = _literal(line)
    if not isinstance(value, dict):
        return ""
    try:
        return json.dumps(value, allow_nan=False)
    except _NOT_A_LITERAL:
        return ""


def _list_as_json(text: str) -> str:
    """The entries of `list_in_text` as JSON; empty if there is no list: a function of DuckDB may not return None."""
    entries = list_in_text(text)
    return "" if entries is None else json.dumps(entries)


_list_json = python_function("tandem_list_in_text", _list_as_json)
_json_strings = duckdb_function("json_extract_string", ("json", "string"), "array<string>")
literal_documents = python_function("tandem_literal_json", literal_json)
"""`literal_json` as an expression."""


def _parsed(text: str) -> object:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return _literal(text)


def _literal(text: str) -> object:
    """The value of a Python literal, in which a set is a list in the order of the text; None if it is none."""
    try:
        with _warning_filters, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about escapes that Python does not know, which stay as they are
            tree = ast.parse(text.strip(), mode="eval")
            return ast.literal_eval(_Lists(text.strip()).visit(tree))
    except _NOT_A_LITERAL:
        return None


class _Lists(ast.NodeTransformer):
    """Makes a list of every set, and splits strings that Python would join: NumPy writes ['Action' 'Indie']."""

    def __init__(self, text: str) -> None:
        self._text = text

    def visit_Set(self, node: ast.Set) -> ast.AST:
        return self.visit_List(ast.List(elts=node.elts, ctx=ast.Load()))

    def visit_List(self, node: ast.List) -> ast.AST:
        only = node.elts[0] if len(node.elts) == 1 else None
        if isinstance(only, ast.Constant) and isinstance(only.value, str):
            segment = ast.get_source_segment(self._text, only) or ""
            tokens = tokenize.generate_tokens(io.StringIO(f"({segment})").readline)
            strings = [token.string for token in tokens if token.type == tokenize.STRING]
            node.elts = [ast.Constant(ast.literal_eval(string)) for string in strings] or node.elts
        self.generic_visit(node)
        return node


def _entries(values: list[object] | tuple[object, ...]) -> Iterator[str]:
    for value in values:
        if isinstance(value, str):
            inner = list_in_text(value) if value.lstrip()[:1] in ("[", "(", "{") and value.strip() else None
            yield from [value] if inner is None else inner
        elif isinstance(value, list | tuple):
            yield from _entries(value)
        elif isinstance(value, Mapping) and (names := _names_in(value)) is not None:
            yield from names
        elif value is not None:
            yield json.dumps(value, ensure_ascii=False, default=str)


def _names_in(value: Mapping[object, object]) -> list[str] | None:
    """The categories that an object stands for: its name, see `_NAME_KEYS`; the keys that are true, if all of its
    values are truth values; the names of the one object in it. None if it is of no such form."""
    if name := next((str(value[key]) for key in _NAME_KEYS if isinstance(value.get(key), str)), ""):
        return [name]
    if value and all(isinstance(inner, bool) for inner in value.values()):
        return [str(key) for key, inner in value.items() if inner]
    (only,) = value.values() if len(value) == 1 else (None,)
    return _names_in(only) if isinstance(only, Mapping) else None
