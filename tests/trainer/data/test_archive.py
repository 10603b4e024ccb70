"""Events and catalogue changes from feature_sync's archive enter the prepared data, equally on every engine."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tandem.contract.streams import AppliedItemChange, ItemChange
from tests.support.archive import event, write_events, write_item_changes
from tests.trainer.data.conftest import csv_text, jsonl_text, table_rows
from tests.trainer.data.test_engine import assert_same, needs_java
from trainer.core.errors import ConfigError, DataError
from trainer.data.config import DataConfig, load_data_config
from trainer.data.prepare import PreparedData, prepare
from trainer.dataset.dataset import load_dataset

CONFIG = """
name = "shop"
format = "table"
min_rating = 3
max_bad_share = 0.5
[interactions]
path = "rows.csv"
user = "u"
item = "i"
rating = "r"
timestamp = "t"
[items]
path = "items.jsonl"
id = "id"
title = "title"
categories = "tags"
"""
EVENTS = {
    "2026-01-01": [
        event("e1", "ann", "tea", 200, "purchase"),
        event("e2", "ann", "pot", 210, "rating", value=5.0),
        event("e3", "ann", "cup", 220, "rating", value=2.0),  # below min_rating
        event("e4", "bob", "tea", 230, "impression"),
    ],
    "2026-01-02": [
        event("e5", "bob", "new", 50, "click"),  # occurred long before it was applied
        event("e6", "ann", "tea", 900, "click"),  # ann bought it the day before
        event("e7", "eve", "cup", 100.000001, "add_to_cart"),
        event("e8", "eve", "pot", 300, "rating", value=9.0),  # outside the scale
    ],
}


def _change(sequence: int, item_id: str, **fields: object) -> AppliedItemChange:
    change = ItemChange(item_id=item_id, changed_at=sequence, **fields)
    return AppliedItemChange(sequence=sequence, slot=sequence, change=change)


CHANGES = {
    "2026-01-01": [
        _change(1, "new", title="A first title"),
        _change(2, "pot", title="A better pot", categories=("kitchen", "iron"), attributes={"price": "9.5"}),
        _change(3, "gone", title="Nobody bought it", deleted=False),
    ],
    "2026-01-02": [
        _change(4, "new", title="A new thing", description="Just in", categories=("garden",)),
        _change(5, "gone", deleted=True),
        _change(6, "pot", deleted=True),
        _change(7, "cup", title="Cup", available=False),
        _change(8, "tea", deleted=True),
        _change(9, "tea", title="Tea, again"),
    ],
}


@pytest.fixture
def shop(write, tmp_path: Path) -> DataConfig:
    rows = [("ann", "cup", 4, 100), ("bob", "pot", 3, 60), ("bob", "cup", 1, 61)]
    write("rows.csv", csv_text([{"u": u, "i": i, "r": r, "t": t} for u, i, r, t in rows]))
    items = [{"id": "pot", "title": "Pot", "tags": ["kitchen"]}, {"id": "cup", "title": "Old cup", "tags": []}]
    write("items.jsonl", jsonl_text(items))
    write_events(tmp_path / "events", EVENTS)
    write_item_changes(tmp_path / "item-changes", CHANGES)
    return load_data_config(str(write("shop.toml", CONFIG)), {})


def _with(config: DataConfig, tmp_path: Path, **keys: str) -> DataConfig:
    folders = {"events": str(tmp_path / "events"), "item_changes": str(tmp_path / "item-changes")}
    return config.model_copy(update={**folders, **keys})


def _interactions(prepared: PreparedData) -> list[tuple[object, ...]]:
    columns = ("user_id", "item_id", "event_type", "rating", "timestamp", "weight")
    return [tuple(row[column] for column in columns) for row in table_rows(prepared, "interactions")]


def _items(prepared: PreparedData) -> dict[object, tuple[object, ...]]:
    columns = ("title", "description", "categories", "attributes", "available")
    return {row["item_id"]: tuple(row[column] for column in columns) for row in table_rows(prepared, "items")}


def test_events_are_additional_interactions(shop: DataConfig, tmp_path: Path) -> None:
    prepared = prepare(_with(shop, tmp_path), tmp_path / "cache")
    assert _interactions(prepared) == [
        ("ann", "cup", "rating", 4.0, 100_000_000, 1.0),
        ("ann", "tea", "purchase", None, 200_000_000, 5.0),
        ("ann", "pot", "rating", 5.0, 210_000_000, 1.0),
        ("bob", "new", "click", None, 50_000_000, 1.0),
        ("bob", "pot", "rating", 3.0, 60_000_000, 1.0),
        ("eve", "cup", "add_to_cart", None, 100_000_001, 3.0),
    ]
    assert table_rows(prepared, "low_rated") == [{"user_id": "bob", "item_id": "cup", "num_events_before": 2}]
    events, interactions = prepared.report.file("events"), prepared.report.file("interactions")
    assert events.rows_read == 8
    assert events.dropped == {"impression": 1, "rating_out_of_range": 1}
    assert interactions.noted == {"from_events": 6}
    assert interactions.dropped == {"below_min_rating": 2, "merged": 1}
    assert interactions.merged == {"click": {"purchase": 1}}
    assert (prepared.num_events, prepared.newest_day, prepared.catalogue_sequence) == (6, "2026-01-02", 9)


def test_the_last_change_of_an_item_wins(shop: DataConfig, tmp_path: Path) -> None:
    prepared = prepare(_with(shop, tmp_path), tmp_path / "cache")
    assert _items(prepared) == {
        "cup": ("Cup", "", [], [], False),
        "gone": ("Nobody bought it", "", [], [], False),
        "new": ("A new thing", "Just in", ["garden"], [], True),
        "pot": ("A better pot", "", ["kitchen", "iron"], [("price", "9.5")], False),
        "tea": ("Tea, again", "", [], [], True),
    }
    changes = prepared.report.file("item changes")
    assert (changes.rows_read, changes.rows_kept, changes.dropped) == (9, 5, {"superseded": 4})
    assert prepared.report.file("items").noted == {"item_changed": 2}
    dataset = load_dataset(prepared.directory)
    assert [dataset.catalogue.item_ids[row] for row in dataset.catalogue.unavailable_rows] == ["cup", "gone", "pot"]


def test_a_past_day_gives_the_same_data_again(shop: DataConfig, tmp_path: Path) -> None:
    first = write_events(tmp_path / "first-events", {"2026-01-01": EVENTS["2026-01-01"]})
    first_day = prepare(_with(shop, tmp_path, events=str(first), item_changes=""), tmp_path / "first")
    for until in ("2026-01-01", "2026-01-02T00:00:00", "2026-01-02T01:00:00+01:00", "2026-01-01T10:00:00Z"):
        again = prepare(_with(shop, tmp_path, item_changes="", until=until), tmp_path / "again")
        assert again.fingerprint == first_day.fingerprint
        assert again.directory.name == first_day.directory.name
        assert again.newest_day == "2026-01-01"
    both = prepare(_with(shop, tmp_path, item_changes="", until="2026-01-02T00:00:01"), tmp_path / "again")
    assert both.fingerprint != first_day.fingerprint
    assert both.newest_day == "2026-01-02"


def test_the_content_of_the_files_decides_the_folder(shop: DataConfig, tmp_path: Path) -> None:
    without = prepare(shop, tmp_path / "cache")
    before_all = prepare(_with(shop, tmp_path, until="2025-12-31"), tmp_path / "cache")
    assert before_all.directory == without.directory
    assert (without.num_events, without.newest_day, without.catalogue_sequence) == (0, "", 0)
    merged = prepare(_with(shop, tmp_path), tmp_path / "cache")
    write_events(tmp_path / "events", {"2026-01-02": [event("e9", "bob", "tea", 1_000)]})
    grown = prepare(_with(shop, tmp_path), tmp_path / "cache")
    assert len({without.directory, merged.directory, grown.directory}) == 3
    assert grown.num_events == merged.num_events + 1


def test_impressions_alone_change_nothing(shop: DataConfig, tmp_path: Path) -> None:
    shown = write_events(tmp_path / "shown", {"2026-01-03": [event("e1", "ann", "cup", 1, "impression")]})
    prepared = prepare(_with(shop, tmp_path, events=str(shown), item_changes=""), tmp_path / "cache")
    assert prepared.num_events == 0
    assert prepared.fingerprint == prepare(shop, tmp_path / "cache").fingerprint


@pytest.mark.process
@needs_java
def test_spark_merges_to_the_same_bytes(shop: DataConfig, tmp_path: Path) -> None:
    assert_same(_with(shop, tmp_path), tmp_path)


def test_a_data_set_without_ratings_takes_events_of_all_types(write, tmp_path: Path) -> None:
    write("rows.csv", csv_text([{"u": "ann", "i": "cup", "p": 2}, {"u": "ann", "i": "pot", "p": 1}]))
    toml = (
        'name = "bare"\nformat = "table"\n[interactions]\npath = "rows.csv"\nuser = "u"\nitem = "i"\nposition = "p"\n'
    )
    config = load_data_config(str(write("bare.toml", toml)), {})
    write_events(tmp_path / "events", {"2026-01-01": [event("e1", "ann", "tea", 5), event("e2", "ann", "tea", 4)]})
    prepared = prepare(config.model_copy(update={"events": str(tmp_path / "events")}), tmp_path / "cache")
    assert [row[1:5] for row in _interactions(prepared)] == [
        ("pot", "rating", None, 0),
        ("cup", "rating", None, 0),
        ("tea", "click", None, 4_000_000),
    ]


def test_keys_may_be_in_the_file_or_on_the_command_line(shop: DataConfig, write, tmp_path: Path) -> None:
    written = write("merged.toml", 'events = "events"\nitem_changes = "item-changes"\nuntil = "2026-01-01"\n' + CONFIG)
    config = load_data_config(str(written), {})
    assert (config.events, config.until) == (str(tmp_path / "events"), "2026-01-01")
    later = load_data_config(str(written), {"until": "2026-01-02T03:04:05Z"})
    assert prepare(later, tmp_path / "cache").num_events == 6
    with pytest.raises(ConfigError, match="until"):
        load_data_config(str(written), {"until": "yesterday"})


@pytest.mark.parametrize(("folder", "message"), [("nowhere", "no such folder"), ("odd", "is not named after a day")])
def test_a_folder_that_is_not_an_archive_is_named(shop: DataConfig, tmp_path: Path, folder: str, message: str) -> None:
    (tmp_path / "odd" / "day=tomorrow").mkdir(parents=True)
    with pytest.raises(DataError, match=message):
        prepare(_with(shop, tmp_path, events=str(tmp_path / folder)), tmp_path / "cache")


def test_unfinished_files_are_not_read(shop: DataConfig, tmp_path: Path) -> None:
    (tmp_path / "events" / "day=2026-01-02" / ".5-6.parquet").write_bytes(b"half")
    (tmp_path / "events" / "day=2026-01-02" / "_5-6.parquet").write_bytes(b"half")
    prepared = prepare(_with(shop, tmp_path), tmp_path / "cache")
    assert json.loads((prepared.directory / "prepared.json").read_text())["num_events"] == 6
