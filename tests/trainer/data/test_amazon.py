"""The three official formats of Amazon Reviews, in miniature."""

import json
from pathlib import Path

import pytest

from tests.trainer.data.conftest import table_rows
from trainer.core.errors import DataError
from trainer.data.config import load_data_config
from trainer.data.prepare import prepare

REVIEWS_2018 = [
    {"reviewerID": "U1", "asin": "A", "overall": 5.0, "unixReviewTime": 1_400_000_000, "reviewText": "x"},
    {"reviewerID": "U1", "asin": "B", "overall": 3.0, "unixReviewTime": 1_400_000_001},
    {"reviewerID": "U1", "asin": "C", "overall": 4.0, "unixReviewTime": 1_300_000_000},
]
REVIEWS_2023 = [
    {"user_id": "U1", "asin": "A1", "parent_asin": "A", "rating": 5.0, "timestamp": 1_588_615_855_070, "title": "x"},
    {"user_id": "U1", "asin": "B1", "parent_asin": "B", "rating": 2.0, "timestamp": 1_588_615_855_071},
]


def run(write, tmp_path: Path, reviews, meta: str | None):
    overrides = {"reviews": str(write("reviews.json.gz", "\n".join(map(json.dumps, reviews)))), "max_bad_share": "0.4"}
    if meta is not None:
        overrides["meta"] = str(write("meta.json", meta))
    return prepare(load_data_config("amazon", overrides), tmp_path / "cache")


def test_reviews_of_2014_and_2018(write, tmp_path: Path):
    prepared = run(write, tmp_path, REVIEWS_2018, None)
    rows = [(row["item_id"], row["rating"], row["timestamp"]) for row in table_rows(prepared, "interactions")]
    assert rows == [("C", 4.0, 1_300_000_000_000_000), ("A", 5.0, 1_400_000_000_000_000)]
    assert prepared.report.file("interactions").dropped == {"below_min_rating": 1}
    assert [row["title"] for row in table_rows(prepared, "items")] == ["", ""]


def test_reviews_of_2023_use_the_parent_item_and_milliseconds(write, tmp_path: Path):
    prepared = run(write, tmp_path, REVIEWS_2023, None)
    rows = [(row["item_id"], row["timestamp"]) for row in table_rows(prepared, "interactions")]
    assert rows == [("A", 1_588_615_855_070_000)]


def test_metadata_of_2018(write, tmp_path: Path):
    meta = [
        {
            "asin": "A",
            "title": "Salt &amp; Pepper",
            "category": ["Home", "Home", "Kitchen &amp; Dining", "</span></span>", "w" * 61],
            "description": ["One <b>fine</b> set.", "", "Two&nbsp;mills."],
            "brand": "Mill &amp; Co",
            "price": "$1,012.34",
        },
        {"asin": "B", "title": "", "category": [], "description": [], "brand": "", "price": "$3.00 - $9.00"},
        {"asin": "B", "title": "A repeat", "category": []},
        {"title": "No id", "category": []},
        {"asin": "Z", "category": ["Never reviewed"], "price": ""},
    ]
    prepared = run(write, tmp_path, REVIEWS_2018, "\n".join(map(json.dumps, meta)))
    items = {row["item_id"]: row for row in table_rows(prepared, "items")}
    assert items["A"] == {
        "item_id": "A",
        "title": "Salt & Pepper",
        "description": "One fine set. Two mills.",
        "categories": ["Home", "Kitchen & Dining"],
        "attributes": [("brand", "Mill & Co"), ("price", "1012.34")],
        "available": True,
    }
    assert items["B"]["attributes"] == []
    assert items["Z"]["categories"] == ["Never reviewed"]
    assert sorted(items) == ["A", "B", "C", "Z"]
    report = prepared.report.file("items")
    assert report.dropped == {"duplicate": 1, "missing_item": 1}
    assert report.noted == {"category_is_markup": 1, "price_unparsable": 1}
    assert prepared.report.file("interactions").noted == {"item_without_metadata": 1}


def test_metadata_of_2014_as_json(write, tmp_path: Path):
    meta = {
        "asin": "A",
        "title": "T",
        "categories": [["X", "Y"], ["X", "Z"]],
        "description": "D",
        "price": 5.26,
        "brand": "B",
    }
    prepared = run(write, tmp_path, REVIEWS_2018, json.dumps(meta))
    item = table_rows(prepared, "items")[0]
    assert item == {
        "item_id": "A",
        "title": "T",
        "description": "D",
        "categories": ["X", "Y", "Z"],
        "attributes": [("brand", "B"), ("price", "5.26")],
        "available": True,
    }


def test_metadata_of_2014_as_python_literals(write, tmp_path: Path):
    meta = [
        {
            "asin": "A",
            "imUrl": "http://x/y,z.jpg",
            "title": 'O\'Neil "x" [a], {b}: c',
            "description": "It's\nfine",
            "related": {"also_bought": ["B1", "B2"]},
            "salesRank": {"Movies & TV": 376041},
            "categories": [["Movies & TV", "Movies"], ["Movies & TV", "A, B"]],
            "price": 5.26,
        },
        {"asin": "C", "categories": [["Movies & TV"]]},
    ]
    prepared = run(write, tmp_path, REVIEWS_2018, "\n".join([repr(meta[0]), "{'asin': 'bro", "", repr(meta[1])]))
    items = table_rows(prepared, "items")
    assert items[0] == {
        "item_id": "A",
        "title": 'O\'Neil "x" [a], {b}: c',
        "description": "It's fine",
        "categories": ["Movies & TV", "Movies", "A, B"],
        "attributes": [("price", "5.26")],
        "available": True,
    }
    assert items[1]["categories"] == ["Movies & TV"]
    assert [(line.line, line.kind) for line in prepared.report.file("items").bad_lines] == [(2, "bad_json")]


def test_metadata_of_2023(write, tmp_path: Path):
    meta = {
        "parent_asin": "A",
        "title": "T",
        "categories": ["X", "Y"],
        "description": ["D."],
        "features": ["F1", "F2"],
        "store": "S",
        "price": None,
        "main_category": "M",
    }
    prepared = run(write, tmp_path, REVIEWS_2023, json.dumps(meta))
    assert table_rows(prepared, "items")[0] == {
        "item_id": "A",
        "title": "T",
        "description": "D. F1 F2",
        "categories": ["X", "Y"],
        "attributes": [("store", "S")],
        "available": True,
    }


def test_a_file_of_no_official_format_is_refused(write, tmp_path: Path):
    with pytest.raises(
        DataError, match=r"reviews\.json\.gz: none of its first 1000 lines has the fields of Amazon reviews"
    ):
        run(write, tmp_path, [{"user": "U1", "item": "A"}], None)
    with pytest.raises(DataError, match="the fields of Amazon metadata"):
        run(write, tmp_path, REVIEWS_2018, '{"id": 3}')
