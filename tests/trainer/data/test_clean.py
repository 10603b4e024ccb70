"""Cleaning after bad rows are dropped: the k-core, normalised ratings, weights of events."""

from pathlib import Path

import numpy as np
import pytest

from tests.trainer.data.conftest import csv_text, table_rows
from trainer.core.errors import ConfigError, DataError
from trainer.data.config import load_data_config
from trainer.data.prepare import PreparedData, prepare
from trainer.dataset.dataset import load_dataset

CONFIG = """
name = "small"
format = "table"
[interactions]
path = "rows.csv"
user = "u"
item = "i"
rating = "r"
position = "p"
"""


def prepared_from(write, tmp_path: Path, pairs: list[tuple[str, str]], overrides: dict[str, str]) -> PreparedData:
    write("rows.csv", csv_text([{"u": u, "i": i, "r": 4, "p": position} for position, (u, i) in enumerate(pairs)]))
    return prepare(load_data_config(str(write("data.toml", CONFIG)), overrides), tmp_path / "cache")


class TestKCore:
    def test_dropping_goes_on_until_all_have_enough(self, write, tmp_path: Path):
        """A chain: without user d item 4 has too few, without item 4 user c, without user c item 3."""
        square = [(user, item) for user in "ab" for item in "12"]
        chain = [("b", "3"), ("c", "3"), ("c", "4"), ("d", "4")]
        prepared = prepared_from(write, tmp_path, square + chain, {"k_core": "2"})
        kept = [(row["user_id"], row["item_id"]) for row in table_rows(prepared, "interactions")]
        assert kept == square
        assert prepared.report.file("interactions").dropped == {"user_below_k_core": 2, "item_below_k_core": 2}
        assert (prepared.num_users, prepared.num_items) == (2, 2)

    def test_it_is_the_largest_such_subset(self, write, tmp_path: Path):
        generator = np.random.default_rng(0)
        pairs = sorted({(f"u{generator.integers(25)}", f"i{generator.integers(40)}") for _ in range(170)})
        core = pairs
        while True:
            users, items = [user for user, _ in core], [item for _, item in core]
            remaining = [(user, item) for user, item in core if min(users.count(user), items.count(item)) >= 4]
            if remaining == core:
                break
            core = remaining
        assert 0 < len(core) < len(pairs)
        prepared = prepared_from(write, tmp_path, pairs, {"k_core": "4"})
        assert sorted((row["user_id"], row["item_id"]) for row in table_rows(prepared, "interactions")) == core

    def test_repeats_do_not_count(self, write, tmp_path: Path):
        pairs = [("a", "1"), ("a", "1"), ("b", "2"), ("b", "3"), ("c", "2"), ("c", "3")]
        report = prepared_from(write, tmp_path, pairs, {"k_core": "2"}).report.file("interactions")
        assert report.dropped == {"duplicate": 1, "user_below_k_core": 1}

    def test_an_empty_core_is_an_error_with_the_counts(self, write, tmp_path: Path):
        with pytest.raises(DataError, match=r"no interaction is left(.|\n)*2  dropped: user_below_k_core"):
            prepared_from(write, tmp_path, [("a", "1"), ("b", "1")], {"k_core": "2"})


def test_ratings_are_normalised_to_the_scale(write, tmp_path: Path):
    rows = [{"u": 1, "i": f"i{position}", "r": rating, "p": position} for position, rating in enumerate((0.5, 5, 3.2))]
    write("rows.csv", csv_text(rows))
    config = load_data_config(str(write("data.toml", "rating_scale_min = 0.5\n" + CONFIG)), {})
    read = table_rows(prepare(config, tmp_path / "cache"), "interactions")
    assert [(row["rating"], row["normalised_rating"]) for row in read] == [
        (0.5, 0.0),
        (5.0, 1.0),
        (3.2, pytest.approx(0.6)),
    ]


class TestWeights:
    EVENTS = CONFIG.replace('rating = "r"', 'event_type = "e"')
    ROWS = "u,i,e,p\n1,a,click,0\n1,b,purchase,1\n1,c,impression,2\n1,b,click,3\n"

    def weights(self, write, tmp_path: Path, overrides: dict[str, str]) -> list[object]:
        write("rows.csv", self.ROWS)
        prepared = prepare(load_data_config(str(write("data.toml", self.EVENTS)), overrides), tmp_path / "cache")
        rows = table_rows(prepared, "interactions")
        assert {row["rating"] for row in rows} == {row["normalised_rating"] for row in rows} == {None}
        dataset = load_dataset(prepared.directory)
        assert dataset.weights.dtype == np.float32
        assert dataset.subset(np.array([False, True, False])).weights.tolist() == dataset.weights[1:2].tolist()
        return [row["weight"] for row in rows]

    def test_defaults(self, write, tmp_path: Path):
        assert self.weights(write, tmp_path, {}) == [1.0, 5.0, 0.1]

    def test_a_single_weight_can_be_changed(self, write, tmp_path: Path):
        assert self.weights(write, tmp_path, {"event_weights.purchase": "8"}) == [1.0, 8.0, 0.1]

    def test_an_unknown_event_is_an_error(self, write, tmp_path: Path):
        with pytest.raises(ConfigError, match=r"event_weights\.view: unknown key"):
            self.weights(write, tmp_path, {"event_weights.view": "8"})


def test_the_threshold_of_a_preset_can_be_removed():
    assert load_data_config("ml-100k", {"min_rating": "none"}).min_rating is None
