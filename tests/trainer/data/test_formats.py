"""The same interactions in every file format give the same prepared data and the same counts."""

from pathlib import Path

import pytest

from tests.trainer.data.conftest import csv_text, jsonl_text, parquet_bytes, table_rows
from trainer.data.config import load_data_config
from trainer.data.prepare import prepare

ROWS = [
    {"who": 7, "what": "b", "stars": 5.0, "when": 200},
    {"who": 7, "what": "a", "stars": 4.0, "when": 100},
    {"who": 3, "what": "a", "stars": 3.0, "when": 50},
    {"who": 3, "what": "d", "stars": 5.0, "when": 60},
    {"who": 3, "what": "c", "stars": 5.0, "when": 60},
    {"who": 3, "what": "d", "stars": 4.0, "when": 70},
    {"who": None, "what": "a", "stars": 4.0, "when": 80},
    {"who": 3, "what": "e", "stars": 9.0, "when": 90},
]
CONFIG = """
name = "small"
format = "table"
min_rating = 4
max_bad_share = 0.5
[interactions]
path = "{name}"
user = "who"
item = "what"
rating = "stars"
timestamp = "when"
"""


class TestEveryFormat:
    @pytest.fixture(
        params=[
            ("rows.csv", lambda: csv_text(ROWS), 1),
            ("rows.csv.gz", lambda: csv_text(ROWS), 1),
            ("crlf.csv", lambda: csv_text(ROWS).replace("\n", "\r\n"), 1),
            ("cut.csv", lambda: csv_text(ROWS).rstrip("\n"), 1),
            ("rows.jsonl", lambda: jsonl_text(ROWS), 0),
            ("rows.json.gz", lambda: jsonl_text(ROWS), 0),
            ("crlf.jsonl", lambda: jsonl_text(ROWS).replace("\n", "\r\n"), 0),
            ("cut.jsonl", lambda: jsonl_text(ROWS).rstrip("\n"), 0),
            ("rows.parquet", lambda: parquet_bytes(ROWS), 0),
        ],
        ids=lambda param: param[0],
    )
    def prepared(self, request, write, tmp_path: Path):
        name, content, self.header_lines = request.param
        write(name, content())
        config = write("data.toml", CONFIG.format(name=name))
        return prepare(load_data_config(str(config), {}), tmp_path / "cache")

    def test_interactions_are_clean_and_in_order(self, prepared):
        rows = [tuple(row.values()) for row in table_rows(prepared, "interactions")]
        # The numbers of events by type, ratings the fifth, and the time of the last end a row.
        assert rows == [
            # The same time as c: the order of the file.
            ("3", "d", 5.0, 1.0, 60_000_000, "rating", 1.0, 0, 0, 0, 0, 2, 0, 70_000_000),
            ("3", "c", 5.0, 1.0, 60_000_000, "rating", 1.0, 0, 0, 0, 0, 1, 0, 60_000_000),
            ("7", "a", 4.0, 0.75, 100_000_000, "rating", 1.0, 0, 0, 0, 0, 1, 0, 100_000_000),
            ("7", "b", 5.0, 1.0, 200_000_000, "rating", 1.0, 0, 0, 0, 0, 1, 0, 200_000_000),
        ]

    def test_every_row_is_accounted_for(self, prepared):
        report = prepared.report.file("interactions")
        assert report.rows_read == 8
        assert report.rows_kept == 4
        assert report.dropped == {
            "below_min_rating": 1,
            "duplicate": 1,
            "missing_user": 1,
            "rating_out_of_range": 1,
        }

    def test_bad_lines_have_their_numbers(self, prepared):
        bad = [(line.line, line.kind) for line in prepared.report.file("interactions").bad_lines]
        assert bad == [(7 + self.header_lines, "missing_user"), (8 + self.header_lines, "rating_out_of_range")]

    def test_items_and_users_come_from_the_interactions(self, prepared):
        assert [row["item_id"] for row in table_rows(prepared, "items")] == ["a", "b", "c", "d"]
        assert table_rows(prepared, "items")[0] == {
            "item_id": "a",
            "title": "",
            "description": "",
            "categories": [],
            "attributes": [],
            "available": True,
        }
        assert table_rows(prepared, "users") == [{"user_id": "3"}, {"user_id": "7"}]
        assert (prepared.num_users, prepared.num_items, prepared.num_interactions) == (2, 4, 4)
