"""Items and users of plain tables."""

import json
from pathlib import Path

import pytest

from tests.trainer.data.conftest import parquet_bytes, table_rows
from trainer.core.errors import ConfigError, DataError, DownloadError
from trainer.data.config import load_data_config
from trainer.data.prepare import prepare

INTERACTIONS = "user,item,position\n1,10,0\n1,20,1\n2,30,0\n"
BASE = """
name = "small"
format = "table"
max_bad_share = 0.4
[interactions]
path = "rows.csv"
user = "user"
item = "item"
position = "position"
"""
ITEMS_DAT = """
[items]
path = "items.dat"
delimiter = "::"
quote = ""
encoding = "latin-1"
header = false
columns = ["id", "title", "genres"]
id = "id"
title = "title"
categories = "genres"
categories_separator = "|"
"""
ITEMS_JSON = """
[items]
path = "items.jsonl"
id = "id"
title = "name"
description = "about"
categories = "tags"
attributes = { price = "cost", maker = "by" }
"""
USERS = """
[users]
path = "users.csv"
id = "id"
features = { age = "years", city = "town" }
"""


def prepared_from(write, tmp_path: Path, sections: str):
    write("rows.csv", INTERACTIONS)
    return prepare(load_data_config(str(write("data.toml", BASE + sections)), {}), tmp_path / "cache")


def test_delimiter_of_two_characters_latin_1_and_no_header(write, tmp_path: Path):
    write("items.dat", '10::Amélie "(2001)"::Comedy|Children\'s\n30::Ran::Drama\n'.encode("latin-1"))
    prepared = prepared_from(write, tmp_path, ITEMS_DAT)
    items = {row["item_id"]: row for row in table_rows(prepared, "items")}
    assert items["10"]["title"] == 'Amélie "(2001)"'
    assert items["10"]["categories"] == ["Comedy", "Children's"]
    assert items["20"]["title"] == ""
    assert prepared.report.file("interactions").noted == {"item_without_metadata": 1}


def test_json_items(write, tmp_path: Path):
    items = [
        {
            "id": 10,
            "name": "A &amp; B  <b>new</b> &#39;x&#x27;",
            "about": None,
            "tags": [3, "a &lt; b", 3, None, ""],
            "cost": 2.5,
        },
        {"id": 40, "name": "Never seen", "tags": [], "by": "Me &amp; Co"},
        {"id": 10, "name": "A repeat"},
        {"name": "No id"},
        {"id": 20, "tags": "single"},
    ]
    write("items.jsonl", "\n".join(map(json.dumps, items)))
    prepared = prepared_from(write, tmp_path, ITEMS_JSON)
    assert table_rows(prepared, "items") == [
        {
            "item_id": "10",
            "title": "A & B new 'x'",
            "description": "",
            "categories": ["3", "a < b"],
            "attributes": [("price", "2.5")],
            "available": True,
        },
        {
            "item_id": "20",
            "title": "",
            "description": "",
            "categories": ["single"],
            "attributes": [],
            "available": True,
        },
        {"item_id": "30", "title": "", "description": "", "categories": [], "attributes": [], "available": True},
        {
            "item_id": "40",
            "title": "Never seen",
            "description": "",
            "categories": [],
            "attributes": [("maker", "Me & Co")],
            "available": True,
        },
    ]
    report = prepared.report.file("items")
    assert report.rows_read == 5
    assert report.dropped == {"duplicate": 1, "missing_item": 1}
    assert [(line.line, line.kind) for line in report.bad_lines] == [(4, "missing_item")]


def test_parquet_items_with_a_list_column(write, tmp_path: Path):
    rows = [{"id": 10.0, "tags": [1, 2]}, {"id": None, "tags": []}, {"id": 20.0, "tags": None}]
    write("items.parquet", parquet_bytes(rows))
    prepared = prepared_from(write, tmp_path, '[items]\npath = "items.parquet"\nid = "id"\ncategories = "tags"\n')
    categories = {row["item_id"]: row["categories"] for row in table_rows(prepared, "items")}
    assert categories == {"10": ["1", "2"], "20": [], "30": []}


def test_users(write, tmp_path: Path):
    write("users.csv", "id,years,town\n2,33,\n9,50,Ulm\n2,34,Bonn\n")
    prepared = prepared_from(write, tmp_path, USERS)
    assert prepared.feature_names == ("age", "city")
    assert table_rows(prepared, "users") == [
        {"user_id": "1", "age": None, "city": None},
        {"user_id": "2", "age": "33", "city": None},
    ]
    report = prepared.report.file("users")
    assert report.dropped == {"duplicate": 1, "user_without_interactions": 1}
    assert report.noted == {"user_without_features": 1}


def test_an_unknown_column_is_named_with_the_known_columns(write, tmp_path: Path):
    write("users.csv", "id,years\n2,33\n")
    with pytest.raises(ConfigError, match=r"users: users\.csv has no column 'town'; its columns are id, years"):
        prepared_from(write, tmp_path, USERS)


def test_a_missing_file_is_named(write, tmp_path: Path):
    with pytest.raises(DataError, match=r"users\.csv: no such file"):
        prepared_from(write, tmp_path, USERS)


def test_a_wrong_checksum_of_a_local_file(write, tmp_path: Path):
    write("users.csv", "id,years,town\n2,33,\n")
    with pytest.raises(DownloadError, match="the configuration says 0000"):
        prepared_from(write, tmp_path, USERS + f'sha256 = "{"0" * 64}"\n')


def test_tab_separated(write, tmp_path: Path):
    write("rows.tsv", "u\ti\tp\n1\ta\t0\n1\tb\t1\n")
    config = BASE.replace('path = "rows.csv"', 'path = "rows.tsv"\ndelimiter = "\\t"').replace('"user"', '"u"')
    config = config.replace('"item"', '"i"').replace('"position"', '"p"')
    prepared = prepare(load_data_config(str(write("data.toml", config)), {}), tmp_path / "cache")
    assert [row["item_id"] for row in table_rows(prepared, "interactions")] == ["a", "b"]
