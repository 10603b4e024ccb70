"""To which shown item each event is owed, or why to none."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from feature_sync.attribution.summaries import event_counts
from feature_sync.core.errors import ArchiveUnreadable
from tandem.contract.streams import EVENTS, IMPRESSIONS
from tests.feature_sync.attribution.archives import arm, event, opened, shown, write, write_both


def matches(folder: Path) -> dict[str, tuple[str, str | None, int | None]]:
    """What each event that counts in the period is owed to."""
    with opened(folder) as database:
        rows = database.rows("SELECT event_id, match, request_id, position FROM attributed WHERE in_period")
    return {row["event_id"]: (row["match"], row["request_id"], row["position"]) for row in rows}


def test_every_way_to_match_and_every_reason_not_to(tmp_path: Path) -> None:
    answers = [
        shown("r1", "ann", "abc", 1),
        shown("r2", "ann", "ca", 5, first_position=20),
        shown("r3", "", "ab", 6),
        shown("old", "ann", "z", -50),
    ]
    events = [
        event(1, "ann", "b", 2, request_id="r1"),
        event(2, "ann", "b", 2, request_id="r2"),  # r2 did not show it
        event(3, "ann", "a", 2, request_id="lost"),
        event(4, "bob", "b", 2, request_id="r1"),
        event(5, "ann", "b", 50, request_id="r1"),  # the window is 48 hours
        event(6, "ann", "c", 4.99),  # before r2
        event(7, "ann", "c", 5),  # the newest answer that showed it
        event(8, "bob", "c", 5),
        event(9, "ann", "z", 3),  # shown, but 53 hours before
        event(10, "bob", "a", 7, request_id="r3"),  # an anonymous answer, and then a login
        event(11, "ann", "b", 0.97, request_id="r1"),  # a clock that is two minutes slow
        event(12, "ann", "b", 0.5, request_id="r1"),
        event(13, "ann", "b", 0.5),
        event(14, "ann", "b", 2, request_id="r1", type="impression"),
    ]
    write_both(tmp_path, answers, events)
    assert matches(tmp_path) == {
        "e1": ("by_request", "r1", 1),
        "e2": ("item_not_shown", None, None),
        "e3": ("answer_unknown", None, None),
        "e4": ("of_another_user", None, None),
        "e6": ("by_user_and_item", "r1", 2),
        "e7": ("by_user_and_item", "r2", 20),
        "e8": ("nothing_shown", None, None),
        "e9": ("nothing_shown", None, None),
        "e10": ("by_request", "r3", 0),
        "e11": ("by_request", "r1", 1),
        "e12": ("outside_window", None, None),
        "e13": ("nothing_shown", None, None),
    }  # e5 happened after the period, and is owed to nothing of it
    with opened(tmp_path) as database:
        assert event_counts(database)["click"] == {
            "by_request": 3,
            "by_user_and_item": 2,
            "answer_unknown": 1,
            "of_another_user": 1,
            "item_not_shown": 1,
            "outside_window": 1,
            "nothing_shown": 3,
        }


def test_an_event_counts_for_the_day_of_its_answer_however_late_it_comes(tmp_path: Path) -> None:
    write_both(tmp_path, [shown("r1", "ann", "a", 23), shown("r2", "ann", "a", 25)], [event(1, "ann", "a", 0.5)])
    assert matches(tmp_path) == {"e1": ("nothing_shown", None, None)}
    # Both happen on the next day: the first is owed to the period's answer, the second to the next day's.
    write(tmp_path, EVENTS, [event(2, "ann", "a", 40, request_id="r1"), event(3, "ann", "a", 40)], days=3)
    assert matches(tmp_path) == {"e1": ("nothing_shown", None, None), "e2": ("by_request", "r1", 0)}


def test_what_is_in_two_files_counts_once(tmp_path: Path) -> None:
    for _ in range(2):
        write_both(tmp_path, [shown("r1", "ann", "ab")], [event(1, "ann", "a", 2, request_id="r1")])
    with opened(tmp_path) as database:
        (row,) = database.rows("SELECT count(*) AS shown, sum(clicks)::INT AS clicks FROM facts")
    assert row == {"shown": 2, "clicks": 1}


def test_ids_are_texts_whatever_they_hold(tmp_path: Path) -> None:
    odd = 'o\'neil "x" \n é'
    write_both(
        tmp_path,
        [shown("r'1", odd, "a", assignments=[arm(odd, odd)], context={"sessionId": "s"}), shown("r2", "", "")],
        [event(1, odd, "a", 2, request_id="r'1"), event(2, odd, "a", 3)],
    )
    assert {match for match, _, _ in matches(tmp_path).values()} == {"by_request", "by_user_and_item"}


def test_empty_archives_have_no_rows(tmp_path: Path) -> None:
    assert matches(tmp_path) == {}


def test_files_of_before_currencies_are_read(tmp_path: Path) -> None:
    write_both(tmp_path, [shown("r1", "ann", "a")], [event(1, "ann", "a", 2, request_id="r1")])
    (file,) = (tmp_path / EVENTS).glob("*/*")
    pq.write_table(pq.ParquetFile(file).read().drop_columns(["currency"]), file)
    assert matches(tmp_path) == {"e1": ("by_request", "r1", 0)}


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    write(tmp_path, IMPRESSIONS, [shown("r1", "ann", "a")])
    (file,) = (tmp_path / IMPRESSIONS).glob("*/*")
    file.write_bytes(b"no Parquet")
    with pytest.raises(ArchiveUnreadable, match=r"impressions.*\.parquet"):
        opened(tmp_path)
