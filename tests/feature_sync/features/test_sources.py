"""The sources' files: rows of the past together with observed rows."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from feature_sync.core.errors import FeatureStoreError
from feature_sync.features.source_columns import SOURCES
from feature_sync.features.sources import Sources, source_path
from tandem.contract import names

VIEW = names.USER_COUNTS_VIEW
NO_EVENTS = dict.fromkeys(names.EVENT_COUNTS, 0)


@pytest.fixture
def sources(tmp_path: Path) -> Iterator[Sources]:
    with Sources(tmp_path) as opened, opened.locked():
        yield opened


def counts(user_id: str, num_click: int, revision: int = 1) -> dict[str, Any]:
    return {names.USER_ID: user_id, **NO_EVENTS, "num_click": num_click, names.STATE_REVISION: revision}


def stored(tmp_path: Path, view: str = VIEW) -> list[tuple[str, int, int]]:
    rows = pq.read_table(source_path(tmp_path, view)).to_pylist()
    return [(row[names.USER_ID], row["num_click"], row[names.KNOWN_AT]) for row in rows]


PAST = "SELECT 'ann' AS user_id, 1 AS num_click, 10 AS known_at"


@pytest.mark.parametrize("folder", ["user_id=zzz/num_click=7", "it's [a-z]*/wh{a,b}t?"])
def test_names_of_folders_are_neither_columns_nor_patterns(tmp_path: Path, folder: str) -> None:
    (tmp_path / folder).mkdir(parents=True)
    with Sources(tmp_path / folder) as sources, sources.locked():
        sources.write(VIEW, history=PAST, now=100)
        assert sources.newest(VIEW)["ann"]["num_click"] == 1
        assert (sources.ids(VIEW), sources.first_time(VIEW)) == (["ann"], 10)


def test_a_value_that_differs_from_the_newest_row_is_a_new_row(sources: Sources, tmp_path: Path) -> None:
    assert sources.write(VIEW, history=PAST, now=100) == 0
    sources.observe(VIEW, [counts("ann", 3), counts("bob", 1)])
    assert sources.write(VIEW, history=PAST, now=200) == 2
    assert stored(tmp_path) == [("ann", 1, 10), ("ann", 3, 200), ("bob", 1, 200)]


def test_observing_the_same_value_again_adds_nothing(sources: Sources, tmp_path: Path) -> None:
    for now in (200, 300, 400):
        sources.observe(VIEW, [counts("bob", 1)])
        sources.write(VIEW, history=PAST, now=now)
    assert stored(tmp_path) == [("ann", 1, 10), ("bob", 1, 200)]


def test_a_changed_marker_alone_adds_no_row(sources: Sources, tmp_path: Path) -> None:
    sources.observe(VIEW, [counts("bob", 1, revision=1)])
    sources.write(VIEW, history=None, now=200)
    sources.observe(VIEW, [counts("bob", 1, revision=2)])
    assert sources.write(VIEW, history=None, now=300) == 0


def test_a_row_without_a_marker_gets_one(sources: Sources, tmp_path: Path) -> None:
    """Otherwise it would be unknown whether serving has changed since."""
    past = f"SELECT *, 10 AS known_at FROM (SELECT 'ann' AS user_id, {', '.join(f'0 AS {n}' for n in NO_EVENTS)})"
    sources.write(VIEW, history=past, now=100)
    sources.observe(VIEW, [counts("ann", 0)])
    assert sources.write(VIEW, history=past, now=200) == 1
    assert sources.newest(VIEW)["ann"][names.STATE_REVISION] == 1


def test_observed_rows_outlive_a_change_of_the_past(sources: Sources, tmp_path: Path) -> None:
    sources.observe(VIEW, [counts("ann", 3)])
    sources.write(VIEW, history=PAST, now=200)
    sources.write(VIEW, history="SELECT 'ann' AS user_id, 2 AS num_click, 50 AS known_at", now=300)
    assert stored(tmp_path) == [("ann", 2, 50), ("ann", 3, 200)]


def test_the_newest_row_of_the_past_is_observed_once_the_source_is_there(sources: Sources, tmp_path: Path) -> None:
    sources.observe_history(VIEW, PAST)
    assert sources.write(VIEW, history=PAST, now=100) == 0
    # An event that is archived late, after a later time was materialised.
    late = f"{PAST} UNION ALL SELECT 'ann', 2, 20"
    sources.observe_history(VIEW, late)
    assert sources.write(VIEW, history=late, now=200) == 1
    assert stored(tmp_path) == [("ann", 1, 10), ("ann", 2, 20), ("ann", 2, 200)]


def test_an_entity_has_a_single_row_for_each_time(sources: Sources, tmp_path: Path) -> None:
    sources.observe(VIEW, [{**counts("ann", 7), names.KNOWN_AT: 10}])
    sources.write(VIEW, history=PAST, now=200)
    assert stored(tmp_path) == [("ann", 7, 10)]


def test_demographic_columns_are_named_by_the_data(sources: Sources, tmp_path: Path) -> None:
    view = names.USER_PROFILE_VIEW
    past = "SELECT 'ann' AS user_id, 'F' AS gender, 10 AS known_at"
    sources.observe(view, [{names.USER_ID: "ann", names.STATE_REVISION: 1, "gender": "F"}])
    assert sources.write(view, history=past, now=100) == 1  # no stored row to compare with
    assert sources.field_names(view) == {"gender", names.STATE_REVISION, names.KNOWN_AT}
    sources.observe(view, [{names.USER_ID: "ann", names.STATE_REVISION: 2, "gender": "F", "age": "49"}])
    assert sources.write(view, history=past, now=200) == 1
    assert sources.newest(view, ["ann"])["ann"]["age"] == "49"


@pytest.mark.parametrize("view", SOURCES)
def test_an_empty_source_has_its_columns_and_both_timestamps(sources: Sources, tmp_path: Path, view: str) -> None:
    sources.write(view, history=None, now=100)
    schema = pq.read_schema(source_path(tmp_path, view))
    assert schema.names == [*SOURCES[view].all, names.EVENT_TIMESTAMP, names.CREATED_TIMESTAMP]
    assert str(schema.field(names.EVENT_TIMESTAMP).type) == "timestamp[us, tz=UTC]"
    assert sources.first_time(view) is None
    assert sources.newest(view) == {}


def test_two_processes_do_not_write_at_once(sources: Sources, tmp_path: Path) -> None:
    with Sources(tmp_path) as other, pytest.raises(FeatureStoreError, match="another process"), other.locked():
        pass
