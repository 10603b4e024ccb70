"""Categories that a source holds as lists, as texts of lists, and as texts that only look like lists."""

import json
from pathlib import Path

import pytest

from tests.trainer.data.conftest import csv_text, parquet_bytes, table_rows
from tests.trainer.data.plain_table import prepare_table
from trainer.data.list_texts import list_in_text, literal_json

ITEMS = '[items]\npath = "{}"\nid = "id"\ntitle = "title"\ndescription = "d"\ncategories = "c"\n'
TEXTS = [
    ("[PC] Action", ["[PC] Action"]),
    ("[PC]", ["[PC]"]),
    ('["A","B"]', ["A", "B"]),
    ("['Action', 'Indie']", ["Action", "Indie"]),
    ("['Action' 'Indie']", ["Action", "Indie"]),  # as NumPy prints an array
    ("['Action'\n 'Indie']", ["Action", "Indie"]),
    ("('Action', 'Indie')", ["Action", "Indie"]),
    ("{'Indie', 'Action'}", ["Indie", "Action"]),
    ('{Action,"Sci \\"Fi\\", x",Film noir,NULL}', ["Action", 'Sci "Fi", x', "Film noir"]),  # of PostgreSQL
    ("{Action}", ["Action"]),
    ("{Action, Indie", ["{Action, Indie"]),
    ("{a: b}", ["{a: b}"]),
    ("{{a},{b}}", ["{{a},{b}}"]),
    ("[{'id': 18, 'name': 'Drama'}, {'id': 35, 'name': 'Comedy'}]", ["Drama", "Comedy"]),
    ("""["Sid Meier's", 'caf\\xe9']""", ["Sid Meier's", "café"]),
    ('[{"id": 3, "value": "Drama"}]', ["Drama"]),
    ("{'Action': True, 'Drama': False, 'Indie': True}", ["Action", "Indie"]),
    ('[{"genre": {"id": 18, "name": "Drama"}}, {"Action": false}]', ["Drama"]),
    ('[{"id": 1, "rank": 2}]', ['{"id": 1, "rank": 2}']),
    ('[{"a": {}}]', ['{"a": {}}']),
    ("[]", []),
    ("[1990, None, ['x', ['y']]]", ["1990", "x", "y"]),
    ("(2001)", ["(2001)"]),
    ("[unclosed", ["[unclosed"]),
    ("[Action, Indie]", ["[Action, Indie]"]),
    ("[" * 5_000, ["[" * 5_000]),
]


@pytest.mark.parametrize(("value", "expected"), TEXTS)
def test_the_list_in_a_text(value: str, expected: list[str]):
    assert (list_in_text(value) or ([] if value == "[]" else [value])) == expected


@pytest.mark.parametrize(
    "line", ["", "[1]", "{'a': ", "__import__('os')", "{'a': f()}", "{" * 5_000, "{'a': 1e999}", "\0"]
)
def test_a_line_that_is_no_dict_of_literals(line: str):
    assert literal_json(line) == ""


def test_literals_keep_what_python_wrote():
    value = {"a": "caf\xe9 'x' \"y\" \\d\n", "b": [None, True, 5.26], "ü": {"c": ()}}
    assert json.loads(literal_json(repr(value))) == {**value, "ü": {"c": []}}
    assert json.loads(literal_json("{'a': 'caf\\xe9 \\u00fc', 'b': u'x', 'a': 'last'}")) == {"a": "last", "b": "x"}


class TestInAFile:
    def categories(self, tmp_path: Path, name: str, **keys: str) -> list[object]:
        (tmp_path / "r.csv").write_text("u,i,t\na,i0,1\n")
        sections = ITEMS.format(name) + "".join(f'{key} = "{value}"\n' for key, value in keys.items())
        prepared = prepare_table(tmp_path, 'path = "r.csv"\ntimestamp = "t"', sections=sections)
        return [row["categories"] for row in table_rows(prepared, "items")]

    def test_json(self, write, tmp_path: Path):
        values: list[object] = [
            "[PC] Action",
            None,
            [],
            '["A","B"]',
            "['A', 'B']",
            ["A", "[PC] B", 3],
            [["A", "B"], ["A", "C"]],
            [{"id": 18, "name": "Drama"}],
            {"name": "Drama"},
            ["['A', 'B']"],
        ]
        rows = [
            {"id": f"i{n}", "title": "[PC] Game", "d": ["[x] y", "z"], "c": value} for n, value in enumerate(values)
        ]
        write("it.jsonl", "\n".join(map(json.dumps, rows)))
        assert self.categories(tmp_path, "it.jsonl") == [
            ["[PC] Action"],
            [],
            [],
            ["A", "B"],
            ["A", "B"],
            ["A", "[PC] B", "3"],
            ["A", "B", "C"],
            ["Drama"],
            ["Drama"],
            ["A", "B"],
        ]

    def test_titles_and_descriptions(self, write, tmp_path: Path):
        write("it.jsonl", json.dumps({"id": "i0", "title": "[PC] Game", "d": ["[x] y", "z"]}))
        (tmp_path / "r.csv").write_text("u,i,t\na,i0,1\n")
        prepared = prepare_table(tmp_path, 'path = "r.csv"\ntimestamp = "t"', sections=ITEMS.format("it.jsonl"))
        (item,) = table_rows(prepared, "items")
        assert (item["title"], item["description"]) == ("[PC] Game", "[x] y z")

    @pytest.mark.parametrize(
        ("values", "expected"),
        [
            ([[{"id": 1, "name": "Drama"}, {"id": 2, "name": "Comedy"}], []], [["Drama", "Comedy"], []]),
            ([[["X", "Y"], ["X", "Z"]], None], [["X", "Y", "Z"], []]),
            ([["['X', 'Y']", "Z"], ["[PC] A", None]], [["X", "Y", "Z"], ["[PC] A"]]),
            ([{"name": "Drama"}, None], [["Drama"], []]),
            ([{"Action": True, "Drama": False}, {"Action": False, "Drama": True}], [["Action"], ["Drama"]]),
            ([[5.0, 2.5], [1.0]], [["5", "2.5"], ["1"]]),
        ],
    )
    def test_nested_columns_of_parquet(self, write, tmp_path: Path, values: list[object], expected: list[object]):
        rows: list[dict[str, object]] = [
            {"id": f"i{n}", "title": "t", "d": "d", "c": value} for n, value in enumerate(values)
        ]
        write("it.parquet", parquet_bytes(rows))
        assert self.categories(tmp_path, "it.parquet") == expected

    @pytest.mark.parametrize("name", ["it.jsonl", "it.csv", "it.parquet"])
    def test_words_for_missing_are_no_entries(self, write, tmp_path: Path, name: str):
        lists = [["A", "NULL", " \\N ", "nullable"], ["NULL"], ["A", None, "B"]]
        rows: list[dict[str, object]] = [{"id": f"i{n}", "d": value, "c": value} for n, value in enumerate(lists)]
        expected_texts = ["A nullable", "", "A B"]
        if name == "it.csv":
            rows = [{**row, "d": "", "c": f'"{row["c"]}"'} for row in rows]
            expected_texts = [""] * 3
        content = {
            "it.csv": csv_text,
            "it.jsonl": lambda rows: "\n".join(map(json.dumps, rows)),
            "it.parquet": parquet_bytes,
        }[name](rows)
        write(name, content)
        write("r.csv", "u,i,t\na,i0,1\n")
        sections = ITEMS.format(name).replace('title = "title"\n', "") + 'nulls = ["NULL", "\\\\N"]\n'
        prepared = prepare_table(tmp_path, 'path = "r.csv"\ntimestamp = "t"', sections=sections)
        items = table_rows(prepared, "items")
        assert [row["categories"] for row in items] == [["A", "nullable"], [], ["A", "B"]]
        assert [row["description"] for row in items] == expected_texts

    def test_a_separator_splits_what_is_no_list(self, write, tmp_path: Path):
        rows = [{"id": "i0", "c": "[PC] Action|RPG"}, {"id": "i1", "c": ["A|B"]}, {"id": "i2", "c": "['A', 'B|C']"}]
        write("it.jsonl", "\n".join(map(json.dumps, rows)))
        expected = [["[PC] Action", "RPG"], ["A|B"], ["A", "B|C"]]
        assert self.categories(tmp_path, "it.jsonl", categories_separator="|") == expected

    def test_csv(self, write, tmp_path: Path):
        quoted = [
            {"id": f"i{n}", "title": "t", "d": "d", "c": '"' + text.replace('"', '""') + '"'}
            for n, text in enumerate(["['Action', 'Indie']", '["A","B"]', "[PC] Action"])
        ]
        write("it.csv", csv_text(quoted))
        assert self.categories(tmp_path, "it.csv") == [["Action", "Indie"], ["A", "B"], ["[PC] Action"]]
