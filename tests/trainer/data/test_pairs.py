"""A purchase after views stays a purchase: the strongest event of a user with an item stands for all of them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tandem.contract import names
from tests.trainer.data.conftest import table_rows
from trainer.commands.cli import main
from trainer.core.errors import DataError
from trainer.data.config import load_data_config
from trainer.data.prepare import PreparedData, load_prepared, prepare

CONFIG = """
name = "shop"
format = "table"
[interactions]
path = "rows.csv"
user = "u"
item = "i"
event_type = "e"
timestamp = "t"
event_types = { view = "click", cart = "add_to_cart", buy = "purchase", rating = "rating" }
"""
ROWS = """u,i,e,t
ann,tea,view,10
ann,cup,view,20
ann,tea,view,30
ann,tea,cart,40
ann,tea,buy,50
ann,tea,buy,60
ann,tea,view,70
bob,pot,view,5
bob,pot,view,6
"""


def prepared_shop(write, tmp_path: Path, rows: str = ROWS, **overrides: str) -> PreparedData:
    write("rows.csv", rows)
    return prepare(load_data_config(str(write("shop.toml", CONFIG)), overrides), tmp_path / "cache")


def events(prepared: PreparedData) -> list[tuple[object, ...]]:
    return [
        (row["user_id"], row["item_id"], row["event_type"], row["timestamp"] // 1_000_000, row["weight"])
        for row in table_rows(prepared, "interactions")
    ]


def test_the_strongest_event_stands_for_all_at_its_own_time(write, tmp_path: Path) -> None:
    prepared = prepared_shop(write, tmp_path)
    assert events(prepared) == [
        ("ann", "cup", "click", 20, 1.0),
        ("ann", "tea", "purchase", 50, 5.0),
        ("bob", "pot", "click", 5, 1.0),
    ]
    _, tea, pot = table_rows(prepared, "interactions")
    assert [tea[name] for name in names.EVENT_COUNTS] == [0, 3, 1, 2, 0, 0]
    assert (tea["last_timestamp"], pot["num_click"], pot["last_timestamp"]) == (70_000_000, 2, 6_000_000)


def test_the_report_says_what_was_merged(write, tmp_path: Path, capsys) -> None:
    prepared = prepared_shop(write, tmp_path)
    report = prepared.report.file("interactions")
    assert report.dropped == {"duplicate": 2, "merged": 4}
    assert report.merged == {"click": {"purchase": 3}, "add_to_cart": {"purchase": 1}}
    assert main(["prepare", "--dataset", str(tmp_path / "shop.toml")]) == 0
    printed = capsys.readouterr()
    assert "3  of them: click into purchase" in printed.out + printed.err


def test_the_weights_of_the_data_say_which_event_is_the_strongest(write, tmp_path: Path) -> None:
    alike = prepared_shop(write, tmp_path, **{"event_weights.purchase": "1", "event_weights.add_to_cart": "1"})
    assert events(alike)[0] == ("ann", "tea", "click", 10, 1.0)
    assert alike.report.file("interactions").dropped == {"duplicate": 6}
    carts = prepared_shop(write, tmp_path, **{"event_weights.add_to_cart": "9"})
    assert events(carts)[1] == ("ann", "tea", "add_to_cart", 40, 9.0)


def test_a_purchase_has_the_rating_that_was_given_before(write, tmp_path: Path) -> None:
    """What the user says after it belongs to the future of a history that ends with the purchase."""
    config = CONFIG.replace('event_type = "e"', 'event_type = "e"\nrating = "r"\n') + "\n"
    rows = "u,i,e,t,r\nann,tea,rating,1,2\nann,tea,rating,2,4\nann,tea,rating,3,3\nann,tea,buy,4,1\nann,cup,buy,5,5\n"
    write("rows.csv", rows)
    prepared = prepare(load_data_config(str(write("rated.toml", config)), {}), tmp_path / "cache")
    assert [(row["event_type"], row["rating"]) for row in table_rows(prepared, "interactions")] == [
        ("purchase", 1.0),
        ("purchase", 5.0),
    ]


def test_data_of_an_earlier_release_are_refused_in_words(write, tmp_path: Path) -> None:
    directory = prepared_shop(write, tmp_path).directory
    description = json.loads((directory / "prepared.json").read_text())
    del description["event_weights"]
    (directory / "prepared.json").write_text(json.dumps(description))
    with pytest.raises(DataError, match="an earlier release prepared these data"):
        load_prepared(directory)
    assert prepared_shop(write, tmp_path).event_weights["purchase"] == 5.0, "it is prepared again"


def test_one_event_of_each_pair_stays_as_it_is(write, tmp_path: Path) -> None:
    prepared = prepared_shop(write, tmp_path, "u,i,e,t\nann,tea,view,10\nann,cup,buy,20\n")
    assert events(prepared) == [("ann", "tea", "click", 10, 1.0), ("ann", "cup", "purchase", 20, 5.0)]
    rows = table_rows(prepared, "interactions")
    assert [row["last_timestamp"] for row in rows] == [row["timestamp"] for row in rows]
    assert prepared.report.file("interactions").dropped == prepared.report.file("interactions").merged == {}
