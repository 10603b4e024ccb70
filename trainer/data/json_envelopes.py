"""JSON objects around lists of rows, as web services answer: {"next": null, "data": [{...}, {...}]}.

Only the beginning of a file is examined, so that a file of any size is read as a stream.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

EXAMINED_BYTES: Final = 1 << 20
_TOKEN: Final = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"|["{}\[\]:]', re.DOTALL)
_OPENING: Final = re.compile(r"\[\s*")
_BETWEEN: Final = re.compile(r"[\s,]*")
_MAX_KEYS_SHOWN: Final = 20
_VALUE: Final = "a value"


@dataclass(frozen=True)
class Envelope:
    """The list of rows in a document."""

    key: str
    """Where it is; with dots if it is in an object inside."""
    start: int
    """Number of characters before its bracket."""
    keys: frozenset[str] = frozenset()
    """Those of its first object."""

    def problem_after(self, rest: str) -> str:
        """Why the text after the list is not the end of the document; empty if it is."""
        opened = "".join('{"":' for _ in self.key.split("."))
        try:
            json.loads(f"{opened}[]{rest}")
        except json.JSONDecodeError as error:
            return error.msg
        return ""


def envelope_of(text: str, id_keys: Collection[str], *, is_whole: bool) -> Envelope | None:
    """The list of rows in the one object that a document is; None if the objects of the document are the rows.

    `text` is the beginning of the document, or all of it. `id_keys` are the keys of a row's ids, by which rows are
    known. Raises ValueError, which says what was found, for one object that is neither a row nor around one list.
    """
    if not id_keys or not text.lstrip().startswith("{"):
        return None
    outline = _outline(text)
    if outline.end is not None and (not is_whole or text[outline.end :].strip()):
        return None

    lists = [found for found in outline.lists if _num_ids(id_keys, found.keys) == len(id_keys)]
    wanted = " and ".join(map(repr, id_keys))
    num_own = _num_ids(id_keys, outline.kinds)
    if num_own == len(id_keys) and lists:
        raise ValueError(f"{wanted} are in the one object and in its list {lists[0].key!r}: write the rows alone")
    if num_own and not lists:
        return None  # a row, perhaps without one of its ids
    if outline.end is None and is_whole and not lists:
        return None  # damaged; reading it as lines says so
    lists = lists or outline.lists
    if len(lists) == 1:
        return lists[0]
    if lists:
        names = ", ".join(repr(found.key) for found in lists)
        raise ValueError(f"one object has several lists of objects, {names}: write the rows with {wanted} alone")
    if outline.end is None or set(outline.kinds.values()) <= {_VALUE}:
        return None  # an object larger than what was examined, or a row without its ids
    found = ", ".join(f"{key!r}: {kind}" for key, kind in list(outline.kinds.items())[:_MAX_KEYS_SHOWN])
    raise ValueError(f"one object without {wanted} and without a list of objects has {found}")


@dataclass(frozen=True)
class Pages:
    """Objects, one after the other, each around a list of rows: the pages of a web service in one file."""

    key: str
    """Where the list of the first page is."""
    id_keys: tuple[str, ...]

    def rows_in(self, page: str) -> Iterator[tuple[int, str]]:
        """(number of characters before it, its text) of each row of a page. An object that is no page is a row."""
        rows = _list_of_page(_outline(page), self.id_keys)
        if rows is None:
            if self._list_in(page) != []:
                yield 0, page
            return
        decoder, position = json.JSONDecoder(), _after(_OPENING, page, rows.start)
        while page[position] != "]":
            _, end = decoder.raw_decode(page, position)
            yield position, page[position:end]
            position = _after(_BETWEEN, page, end)

    def _list_in(self, page: str) -> object:
        value = json.loads(page)
        for step in self.key.split("."):
            value = value.get(step) if isinstance(value, dict) else None
        return value


def pages_of(text: str, id_keys: Sequence[str]) -> Pages | None:
    """The pages of which a text is the beginning; None unless its first object is a page, and something follows."""
    if not id_keys or not text.lstrip().startswith("{"):
        return None
    outline = _outline(text)
    if outline.end is None or not text[outline.end :].strip():
        return None
    rows = _list_of_page(outline, id_keys)
    return Pages(rows.key, tuple(id_keys)) if rows else None


def _list_of_page(outline: _Outline, id_keys: Collection[str]) -> Envelope | None:
    """The only list of rows in an object that is no row itself."""
    lists = [found for found in outline.lists if _num_ids(id_keys, found.keys) == len(id_keys)]
    return lists[0] if len(lists) == 1 and not _num_ids(id_keys, outline.kinds) else None


def _after(pattern: re.Pattern[str], text: str, position: int) -> int:
    found = pattern.match(text, position)
    assert found is not None
    return found.end()


def _num_ids(id_keys: Collection[str], keys: Collection[str]) -> int:
    return sum(key in keys or key.split(".")[0] in keys for key in id_keys)


@dataclass
class _Outline:
    """The first object of a text, as far as the text goes."""

    kinds: dict[str, str] = field(default_factory=dict)
    """What each of its keys holds."""
    lists: list[Envelope] = field(default_factory=list)
    """The lists of objects that are in no other list."""
    end: int | None = None
    """Number of characters up to its end; None if the text ends before."""


def _outline(text: str) -> _Outline:
    outline = _Outline()
    brackets, steps, word = "", [""], ""  # open brackets; the keys that lead to this place; the last string
    list_depth, list_start, first_keys = 0, 0, set[str]()  # of the outermost list that is open; 0: none
    is_in_first = False
    for found in _TOKEN.finditer(text):
        token, depth = found[0], len(brackets)
        if token == '"':
            break  # a string that the end of the text cuts
        if token[0] == '"':
            word = token
        elif token == ":" and not list_depth:
            steps[depth - 1 :] = [_unquoted(word)]
            if depth == 1:
                outline.kinds[steps[0]] = _VALUE
        elif token == ":":
            if is_in_first and depth == list_depth + 1:
                first_keys.add(_unquoted(word))
        elif token in "{[":
            if depth == 1 and not list_depth:
                outline.kinds[steps[0]] = "an object" if token == "{" else "a list"
            if token == "[" and not list_depth:
                list_depth, list_start, first_keys = depth + 1, found.start(), set()
            elif token == "{" and 0 < depth == list_depth and not text[list_start + 1 : found.start()].strip():
                is_in_first = True
            brackets += token
        else:
            if brackets[-1:] + token not in {"{}", "[]"}:
                break
            brackets = brackets[:-1]
            if is_in_first and len(brackets) == list_depth:
                outline.lists.append(Envelope(".".join(steps[: depth - 2]), list_start, frozenset(first_keys)))
                is_in_first = False
            if len(brackets) < list_depth:
                list_depth = 0
            if not brackets:
                outline.end = found.end()
                break
    return outline


def _unquoted(word: str) -> str:
    try:
        return str(json.loads(word, strict=False))
    except ValueError:  # not JSON: reading names the line
        return word
