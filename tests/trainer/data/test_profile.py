"""The profile of a data set with known statistics."""

import json
from pathlib import Path

import pytest

from tests.trainer.data.conftest import csv_text
from trainer.data.config import load_data_config
from trainer.data.prepare import PreparedData, prepare
from trainer.data.profile import profile

CONFIG = """
name = "small"
format = "table"
[interactions]
path = "rows.csv"
user = "u"
item = "i"
rating = "r"
timestamp = "t"
"""


def prepared_from(write, tmp_path: Path, rows: list[dict[str, object]], config: str = CONFIG) -> PreparedData:
    write("rows.csv", csv_text(rows))
    return prepare(load_data_config(str(write("data.toml", config)), {}), tmp_path / "cache")


def test_figures(write, tmp_path: Path):
    """Ten items: user 0 has all of them, and the other four users have the same item."""
    pairs = [(user, 0) for user in range(5)] + [(0, item) for item in range(1, 10)] + [(0, 0)]
    rows: list[dict[str, object]] = [
        {"u": user, "i": item, "r": 1 + day % 5, "t": 86_400 * day} for day, (user, item) in enumerate(pairs)
    ]
    result = profile(prepared_from(write, tmp_path, rows))
    assert (result.num_users, result.num_items, result.num_interactions) == (5, 10, 14)
    assert result.density == 14 / 50
    assert result.head_shares == {1: 5 / 14, 10: 5 / 14, 20: 6 / 14}
    assert result.history_lengths[0.5] == 1
    assert result.history_lengths[1.0] == 10
    assert result.num_single_users == 4
    assert result.gini == pytest.approx(0.9 * (5 - 1) / 14), "one item with five interactions, nine items with one"
    assert result.ratings == {"1": 3, "2": 3, "3": 3, "4": 3, "5": 2}
    assert result.event_types == {"rating": 14}
    assert (result.first_time, result.last_time) == ("1970-01-01T00:00:00+00:00", "1970-01-14T00:00:00+00:00")
    assert result.dropped == {"interactions": {"duplicate": 1}}
    assert json.loads(json.dumps(result.to_dict()))["gini"] == result.gini
    text = result.to_text()
    for words in (
        "sparsity 72.0000%",
        "top 10 % of items 35.7%",
        "median 1, ",
        "most 10; 4 users have one",
        "1 duplicate",
    ):
        assert words in text


def test_neither_times_nor_ratings(write, tmp_path: Path):
    config = CONFIG.replace('rating = "r"\n', "").replace("timestamp", "position")
    rows: list[dict[str, object]] = [{"u": 1, "i": item, "t": item} for item in range(3)]
    result = profile(prepared_from(write, tmp_path, rows, config))
    assert (result.ratings, result.first_time, result.last_time) == ({}, None, None)
    assert "ratings: none" in result.to_text()
    assert "only the order is known" in result.to_text()


def test_many_different_ratings_become_ranges(write, tmp_path: Path):
    rows: list[dict[str, object]] = [{"u": 1, "i": item, "r": 1 + item / 25, "t": item} for item in range(100)]
    ratings = profile(prepared_from(write, tmp_path, rows)).ratings
    assert len(ratings) == 10
    assert sum(ratings.values()) == 100
