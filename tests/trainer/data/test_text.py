"""Text cleaning in DuckDB against Python's own html.unescape."""

import html
import tempfile
from pathlib import Path

import ibis
import pytest

from trainer.data import text
from trainer.data.duckdb_engine import DuckDBEngine


def evaluate(expression_of, values: list[object], kind: str = "string") -> list[object]:
    table = ibis.memtable({"value": values}, schema={"value": kind})
    with tempfile.TemporaryDirectory() as folder, DuckDBEngine(Path(folder)) as engine:
        return [row["result"] for row in engine.rows(table.select(result=expression_of(table["value"])))]


@pytest.mark.parametrize(
    "value",
    [
        "plain",
        "",
        "Salt &amp; Pepper",
        "&lt;b&gt; &quot;x&quot; &#39;y&#39; &#x27;z&#X27;",
        "caf&eacute; &#233; &#8217; &#x1F600;",
        "A &amp;amp; B",
        "AT&T, R&D; a & b && c &; &unknownname;",
    ],
)
def test_entities_become_characters_once(value: str):
    assert evaluate(text.unescape, [value]) == [html.unescape(value)]


@pytest.mark.parametrize("value", ["&#0;", "&#55296;", "&#9999999;", "&#xFFFFFF;"])
def test_numbers_that_are_not_characters_stay(value: str):
    assert evaluate(text.unescape, [value]) == [value]


def test_plain_text():
    values = ["  a\n\tb ", "<p>one</p><br/>two", "1 &lt; 2", None]
    assert evaluate(text.plain, values) == ["a b", "one two", "1 < 2", ""]


def test_categories_lose_blanks_and_repeats_and_keep_their_order():
    lists = [["b", "a", "b", " a ", "", None, "R &amp; B"], [], None]
    assert evaluate(text.categories, lists, "array<string>") == [["b", "a", "R & B"], [], []]


def test_markup_among_categories():
    values = ["Home", "</span>", "<a href='x'>", "a < b", "x" * 60, "x" * 61]
    assert evaluate(text.is_markup, values) == [False, True, True, False, False, True]
