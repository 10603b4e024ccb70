"""Feature rows of the past: the values known at each time, from prepared data and archive."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from feature_sync.core.errors import FeatureStoreError
from feature_sync.features import history
from feature_sync.features.sources import Sources
from tandem.contract import names
from tandem.contract.deleted_users import DeletedUsers, user_sha256
from tandem.contract.streams import AppliedItemChange, Event, ItemChange
from tests.feature_sync.features.small_catalogue import SECOND, START, write_events, write_item_changes, write_items
from tests.feature_sync.prepared_data import Interaction

Prepare = Callable[..., Path]
ITEMS = ["film", "book"]
CLICK, IMPRESSION = names.EVENT_COUNTS[1], names.EVENT_COUNTS[0]


@pytest.fixture
def prepared(prepare: Prepare) -> Path:
    interactions = [
        Interaction("ann", "film", START, "click"),
        Interaction("ann", "book", START + 5 * SECOND, "purchase"),
        Interaction("bob", "book", START + 5 * SECOND, "click"),
    ]
    folder = prepare(interactions, users={"ann": {"gender": "F"}})
    write_items(folder, [*ITEMS, "never-chosen"], {"year": "1998", "maker": "x"})
    return folder


@pytest.fixture
def sources(tmp_path: Path) -> Iterator[Sources]:
    with Sources(tmp_path / "features") as opened:
        yield opened


def rows(sources: Sources, sql: str) -> list[dict[str, Any]]:
    return sorted(
        sources.rows(sql), key=lambda row: (str(row.get(names.USER_ID, row.get(names.ITEM_ID))), row["known_at"])
    )


def define_events(sources: Sources, prepared: Path, data_dir: Path) -> None:
    sources.define(history.EVENTS, history.events_sql(prepared / "interactions.parquet", data_dir / "events"))


def late(event_id: str, user_id: str, item_id: str, kind: str, *, occurred: int, received: int) -> Event:
    return Event(
        event_id=event_id, user_id=user_id, item_id=item_id, type=kind, occurred_at=occurred, received_at=received
    )


def test_counts_grow_with_every_moment(sources: Sources, prepared: Path, tmp_path: Path) -> None:
    define_events(sources, prepared, tmp_path)
    ann_rows = [row for row in rows(sources, history.counts_sql(names.USER_ID)) if row[names.USER_ID] == "ann"]
    assert [(row["known_at"] - START, row["num_click"], row["num_purchase"]) for row in ann_rows] == [
        (0, 1, 0),
        (5 * SECOND, 1, 1),
    ]
    book_rows = [row for row in rows(sources, history.counts_sql(names.ITEM_ID)) if row[names.ITEM_ID] == "book"]
    # Events of two users at the same time give a single row.
    assert [(row["known_at"] - START, row["num_click"], row["num_purchase"]) for row in book_rows] == [
        (5 * SECOND, 1, 1)
    ]


def test_an_archived_event_counts_once_and_from_its_receipt(sources: Sources, prepared: Path, tmp_path: Path) -> None:
    hour = 3_600 * SECOND
    write_events(
        tmp_path,
        [
            # Also in the prepared data: the event counts once, and was known only an hour after it happened.
            late("1", "ann", "book", "purchase", occurred=START + 5 * SECOND, received=START + hour),
            late("2", "ann", "film", "impression", occurred=START + hour, received=START + 2 * hour),
            # From a clock that is ahead of the server's.
            late("3", "bob", "film", "click", occurred=START + 9 * hour, received=START + hour),
        ],
    )
    define_events(sources, prepared, tmp_path)
    found = rows(sources, history.counts_sql(names.USER_ID))
    assert [(r["user_id"], r["known_at"] - START, r[IMPRESSION], r[CLICK], r["num_purchase"]) for r in found] == [
        ("ann", 0, 0, 1, 0),
        ("ann", hour, 0, 1, 1),
        ("ann", 2 * hour, 1, 1, 1),
        ("bob", 5 * SECOND, 0, 1, 0),
        ("bob", 9 * hour, 0, 2, 0),
    ]


def test_what_deleted_users_did_before_has_no_history(sources: Sources, prepared: Path, tmp_path: Path) -> None:
    write_events(tmp_path, [late("1", "bob", "film", "click", occurred=START + 9 * SECOND, received=START)])
    deleted = DeletedUsers({user_sha256("ann"): START, user_sha256("bob"): START + 8 * SECOND})
    interactions = prepared / "interactions.parquet"
    sources.define(history.EVENTS, history.events_sql(interactions, tmp_path / "events", deleted=deleted))
    found = [(row[names.USER_ID], row["known_at"] - START) for row in rows(sources, f"SELECT * FROM {history.EVENTS}")]
    assert found == [("ann", 5 * SECOND), ("bob", 9 * SECOND)]
    users = history.user_profile_sql(prepared / "users.parquet", deleted=DeletedUsers({user_sha256("ann"): START}))
    assert [row[names.USER_ID] for row in rows(sources, users)] == ["bob"]


def test_events_without_a_time_have_no_history(sources: Sources, prepare: Prepare, tmp_path: Path) -> None:
    define_events(sources, prepare([Interaction("ann", "film", 0)]), tmp_path)
    assert rows(sources, history.counts_sql(names.USER_ID)) == []


def test_a_file_that_is_being_written_is_not_read(sources: Sources, prepared: Path, tmp_path: Path) -> None:
    folder = tmp_path / "events" / "day=2026-01-01"
    folder.mkdir(parents=True)
    (folder / ".0-0.parquet").write_bytes(b"half")
    define_events(sources, prepared, tmp_path)
    assert len(rows(sources, f"SELECT * FROM {history.EVENTS}")) == 3


def test_a_damaged_file_is_named(sources: Sources, prepared: Path, tmp_path: Path) -> None:
    folder = tmp_path / "events" / "day=2026-01-01"
    folder.mkdir(parents=True)
    (folder / "0-0.parquet").write_bytes(b"not parquet at all")
    with pytest.raises(FeatureStoreError, match=r"0-0\.parquet"):
        define_events(sources, prepared, tmp_path)


def test_profiles_hold_from_just_before_the_first_event(sources: Sources, prepared: Path, tmp_path: Path) -> None:
    define_events(sources, prepared, tmp_path)
    users = rows(sources, history.user_profile_sql(prepared / "users.parquet"))
    assert [(row["user_id"], row["gender"], row["known_at"] - START) for row in users] == [
        ("ann", "F", -1),
        ("bob", None, 5 * SECOND - 1),
    ]
    items = rows(sources, history.item_profile_sql(prepared / "items.parquet", tmp_path / "item-changes"))
    assert [(row["item_id"], row["known_at"]) for row in items] == [
        ("book", START + 5 * SECOND - 1),
        ("film", START - 1),
        ("never-chosen", 0),
    ]
    assert items[0]["attributes"] == '{"maker":"x","year":"1998"}'
    assert "popularity" not in items[0]


def test_changes_of_items_hold_from_the_change_on(sources: Sources, prepared: Path, tmp_path: Path) -> None:
    change = ItemChange(item_id="film", changed_at=START + 7, title="New", categories=("noir",), available=False)
    deletion = ItemChange(item_id="film", changed_at=START + 9, deleted=True)
    write_item_changes(
        tmp_path,
        [AppliedItemChange(sequence=1, slot=0, change=change), AppliedItemChange(sequence=2, slot=0, change=deletion)],
    )
    define_events(sources, prepared, tmp_path)
    items = rows(sources, history.item_profile_sql(prepared / "items.parquet", tmp_path / "item-changes"))
    assert [
        (row["title"], row["categories"], row["available"], row["change_sequence"], row["known_at"] - START)
        for row in items
        if row["item_id"] == "film"
    ] == [("Title film", ["drama"], True, 0, -1), ("New", ["noir"], False, 1, 7), ("", [], False, 2, 9)]
