"""The five real data sets, with their known counts."""

from collections import Counter
from itertools import pairwise
from pathlib import Path

import pytest

from tests.trainer.data.conftest import table_rows
from trainer.core.errors import DownloadError
from trainer.data.config import load_data_config
from trainer.data.movielens import fetch_movielens_100k
from trainer.data.prepare import PreparedData, prepare


def check_order(prepared: PreparedData) -> None:
    rows = table_rows(prepared, "interactions")
    keys = [(row["user_id"], row["timestamp"]) for row in rows]
    assert all(first <= second for first, second in pairwise(keys))
    assert len({(row["user_id"], row["item_id"]) for row in rows}) == len(rows)
    item_ids = [row["item_id"] for row in table_rows(prepared, "items")]
    assert item_ids == sorted(set(item_ids))
    assert {row["item_id"] for row in rows} <= set(item_ids)
    assert [row["user_id"] for row in table_rows(prepared, "users")] == sorted({row["user_id"] for row in rows})


@pytest.fixture(scope="module")
def movielens_cache(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("movielens")


@pytest.mark.process
class TestMovieLens100K:
    def test_every_rating(self, movielens_cache: Path):
        config = load_data_config("ml-100k", {"min_rating": "1"})
        prepared = prepare(config, movielens_cache)
        check_order(prepared)
        report = prepared.report.file("interactions")
        assert (report.rows_read, report.rows_kept, report.dropped) == (100_000, 100_000, {})
        assert (prepared.num_users, prepared.num_items, prepared.num_interactions) == (943, 1_682, 100_000)

    def test_the_default_keeps_liked_items(self, movielens_cache: Path):
        prepared = prepare(load_data_config("ml-100k", {}), movielens_cache)
        check_order(prepared)
        assert (prepared.num_users, prepared.num_items, prepared.num_interactions) == (942, 1_682, 55_375)
        assert prepared.report.file("interactions").dropped == {"below_min_rating": 44_625}

    def test_items_and_users(self, movielens_cache: Path):
        prepared = prepare(load_data_config("ml-100k", {}), movielens_cache)
        items = {row["item_id"]: row for row in table_rows(prepared, "items")}
        assert items["1"] == {
            "item_id": "1",
            "title": "Toy Story",
            "description": "",
            "categories": ["Animation", "Children's", "Comedy"],
            "attributes": [("release_year", "1995")],
            "available": True,
        }
        genres = {genre for item in items.values() for genre in item["categories"]}
        assert len(genres) == 19
        assert {"Children's", "Film-Noir", "Sci-Fi"} <= genres
        assert items["1412"]["title"] == "Land Before Time III: The Time of the Great Giving"
        assert items["1412"]["attributes"] == [("release_year", "1995")]
        assert sum(not item["attributes"] for item in items.values()) == 1, "film 267, of which nothing is known"
        assert prepared.feature_names == ("age", "gender", "occupation")
        users = {row["user_id"]: row for row in table_rows(prepared, "users")}
        assert users["196"] == {"user_id": "196", "age": "49", "gender": "M", "occupation": "writer"}

    def test_a_damaged_cache_is_fetched_again(self, movielens_cache: Path):
        files = fetch_movielens_100k(movielens_cache / "downloads")
        whole = files["users"].read_bytes()
        files["users"].write_bytes(whole[:-1])
        assert fetch_movielens_100k(movielens_cache / "downloads")["users"].read_bytes() == whole

    def test_a_package_that_does_not_exist_is_a_clear_error(self, tmp_path: Path):
        with pytest.raises(DownloadError, match=r"pip download recbole==0\.0\.0 failed .*recbole==0\.0\.0"):
            fetch_movielens_100k(tmp_path, requirement="recbole==0.0.0")


def test_amazon_gift_cards_2018(shared_data: Path, tmp_path: Path):
    folder = shared_data / "amazon-giftcards-2018"
    files = {
        "reviews": str(folder / "Gift_Cards_5.json.gz"),
        "meta": str(folder / "meta_Gift_Cards.json.gz"),
        "min_rating": "1",
    }
    prepared = prepare(load_data_config("amazon", files), tmp_path)
    check_order(prepared)
    report = prepared.report.file("interactions")
    assert report.rows_read == 2_972
    assert report.dropped == {"duplicate": 7}
    assert (prepared.num_users, prepared.num_items) == (458, 1_547)
    rows = table_rows(prepared, "interactions")
    assert len({row["item_id"] for row in rows}) == 148
    items = table_rows(prepared, "items")
    assert all("<" not in category for item in items for category in item["categories"])
    assert prepared.report.file("items").noted == {
        "category_is_markup": 516,
        "price_unparsable": 4,
        "text_is_script": 1,
    }

    liked = prepare(load_data_config("amazon", files | {"min_rating": "4"}), tmp_path)
    assert (liked.num_users, liked.num_interactions) == (456, 2_900)


def test_amazon_musical_instruments_2014_without_metadata(shared_data: Path, tmp_path: Path):
    reviews = str(shared_data / "amazon-musical-instruments-2014" / "Musical_Instruments_5.json.gz")
    prepared = prepare(load_data_config("amazon", {"reviews": reviews, "min_rating": "1"}), tmp_path)
    check_order(prepared)
    assert prepared.report.file("interactions").rows_read == 10_261
    assert (prepared.num_users, prepared.num_items, prepared.num_interactions) == (1_429, 900, 10_261)
    assert {row["title"] for row in table_rows(prepared, "items")} == {""}


def test_amazon_beauty_2014(shared_data: Path, tmp_path: Path):
    config = load_data_config("amazon-beauty-2014", {"folder": str(shared_data / "amazon-beauty-2014")})
    prepared = prepare(config, tmp_path)
    check_order(prepared)
    assert (prepared.num_users, prepared.num_items, prepared.num_interactions) == (22_332, 12_086, 198_215)
    items = {row["item_id"]: row for row in table_rows(prepared, "items")}
    assert items["B004Y9PLB6"]["title"] == 'Infrashine: Ceramic Flat Iron, 2"'
    assert items["B007IVRASY"]["categories"] == ["618", "4", "5", "6"]
    rows = table_rows(prepared, "interactions")
    first_user = [row["item_id"] for row in rows if row["user_id"] == "A1GNYV0RA0EQSS"]
    assert first_user[:3] == ["B000US0804", "B000GUZ8HY", "B0019ZMFYE"]
    assert {row["timestamp"] for row in rows} == {0}


def test_ml_1m(shared_data: Path, tmp_path: Path):
    prepared = prepare(load_data_config("ml-1m", {"folder": str(shared_data / "ml-1m")}), tmp_path)
    assert (prepared.num_users, prepared.num_items, prepared.num_interactions) == (6_040, 3_883, 1_000_209)
    items = {row["item_id"]: row for row in table_rows(prepared, "items")}
    assert items["73"]["title"] == "Misérables, Les (1995)"
    assert items["1"]["categories"] == ["Animation", "Children's", "Comedy"]
    assert Counter(row["gender"] for row in table_rows(prepared, "users")) == {
        "M": 4_331,
        "F": 1_709,
    }
    assert prepared.report.file("interactions").noted == {}
