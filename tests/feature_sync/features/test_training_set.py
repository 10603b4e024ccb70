"""Training sets joined by Feast: values known just before each label, and planted leaks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from feature_sync.core.errors import FeatureStoreError, LeakError
from feature_sync.features.feast_store import feast_config
from feature_sync.features.training_set import write_training_set
from tandem.contract import names
from tests.feature_sync.features.conftest import CHOSEN, World
from tests.feature_sync.features.small_catalogue import SECOND, START
from tests.feature_sync.prepared_data import Interaction, write_prepared

pytestmark = [pytest.mark.usefixtures("first_report"), pytest.mark.process]

CLICKS = f"{names.USER_COUNTS_VIEW}__num_click"
ITEM_CLICKS = f"{names.ITEM_COUNTS_VIEW}__num_click"


def joined(world: World, output: Path, **arguments: Any) -> list[dict[str, Any]]:
    report = write_training_set(world.settings, world.prepared, output, **arguments)
    rows: list[dict[str, Any]] = pq.read_table(output).to_pylist()
    assert report.num_rows == len(rows)
    return rows


def rows_of_user(rows: Sequence[dict[str, Any]], user_id: str) -> list[dict[str, Any]]:
    return [row for row in rows if row[names.USER_ID] == user_id]


def test_every_row_has_the_values_known_just_before_it(world: World, tmp_path: Path) -> None:
    rows = joined(world, tmp_path / "rows.parquet")
    assert len(rows) == sum(map(len, CHOSEN.values()))
    assert [row[names.TIMESTAMP] for row in rows] == sorted(row[names.TIMESTAMP] for row in rows)
    # A count excludes the row's own event, although that event has a feature row of the same time.
    assert [row[CLICKS] for row in rows_of_user(rows, "ann")] == [None, 1, 2, 3]
    # Ann chose item 1 after ten seconds, bob after one second.
    assert [row[ITEM_CLICKS] for row in rows_of_user(rows, "ann")] == [None, 1, None, None]
    assert {row["user_profile__gender"] for row in rows_of_user(rows, "ann")} == {"F"}
    assert {row["item_profile__title"] for row in rows_of_user(rows, "cem")} == {"Title item-7"}


def test_values_from_the_model_do_not_reach_back(world: World, tmp_path: Path) -> None:
    """Popularity and vectors come from all the data: they hold from the time they were served, not before."""
    rows = joined(world, tmp_path / "rows.parquet", service="training_with_vectors")
    for column in (
        "item_profile__popularity",
        "item_tower_embedding__item_vector",
        "user_tower_embedding__user_vector",
    ):
        assert {row[column] for row in rows} == {None}
    # The text was known before the first click.
    assert all(len(row["item_text_embedding__text_embedding"]) == 384 for row in rows)


def test_rows_of_a_period(world: World, tmp_path: Path) -> None:
    start = datetime.fromtimestamp(START / SECOND, UTC)
    rows = joined(
        world, tmp_path / "rows.parquet", since=start + timedelta(seconds=10), until=start + timedelta(seconds=30)
    )
    assert [(row[names.USER_ID], row[CLICKS]) for row in rows] == [("ann", 1), ("bob", 1), ("ann", 2)]


def test_no_file_without_rows(world: World, tmp_path: Path) -> None:
    with pytest.raises(FeatureStoreError, match="no interaction"):
        joined(world, tmp_path / "rows.parquet", since=datetime(2020, 1, 1, tzinfo=UTC))
    assert list(tmp_path.iterdir()) == []


def test_data_without_times_are_refused(world: World, tmp_path: Path) -> None:
    untimed = write_prepared(tmp_path / "untimed", [Interaction("ann", "item-0", 0)], users={"ann": {"gender": "F"}})
    (untimed / "items.parquet").write_bytes((world.prepared / "items.parquet").read_bytes())
    with pytest.raises(FeatureStoreError, match="without a time"):
        write_training_set(world.settings, untimed, tmp_path / "rows.parquet")


def test_an_unknown_service_is_named(world: World, tmp_path: Path) -> None:
    with pytest.raises(FeatureStoreError, match="training, training_with_vectors"):
        write_training_set(world.settings, world.prepared, tmp_path / "rows.parquet", service="trainin")


class TestPlantedLeaks:
    """A custom view of a user's purchases on the next day, with sources that leak in different ways."""

    SERVICE = "leaky"

    @pytest.fixture
    def source(self, world: World, tmp_path: Path) -> Iterator[Path]:
        # Feast takes five seconds to import, which test processes without these tests are spared.
        from feast import Entity, FeatureService, FeatureStore, FeatureView, Field, FileSource, ValueType
        from feast.types import Int64

        path = tmp_path / "next_day.parquet"
        # Feast reads the file when the view is applied.
        write_source(path, [row(known=START)])
        store = FeatureStore(config=feast_config(world.settings))
        user = Entity(name="user", join_keys=[names.USER_ID], value_type=ValueType.STRING)
        view = FeatureView(
            name="next_day",
            entities=[user],
            ttl=timedelta(0),
            schema=[Field(name="purchases", dtype=Int64), Field(name=names.KNOWN_AT, dtype=Int64)],
            source=FileSource(
                name="next_day_source",
                path=str(path),
                timestamp_field=names.EVENT_TIMESTAMP,
                created_timestamp_column=names.CREATED_TIMESTAMP,
            ),
        )
        service = FeatureService(name=self.SERVICE, features=[view])
        store.apply([user, view, service])
        yield path
        store.apply([], objects_to_delete=[service, view], partial=False)

    def ann(self, world: World, tmp_path: Path) -> list[int | None]:
        rows = joined(world, tmp_path / "rows.parquet", service=self.SERVICE)
        return [row["next_day__purchases"] for row in rows_of_user(rows, "ann")]

    def test_a_row_counts_only_after_its_time(self, world: World, source: Path, tmp_path: Path) -> None:
        """Ann's events are 10 seconds apart: a row at the time of her second event, and a row after the third."""
        write_source(source, [row(known=START + 10 * SECOND, purchases=1), row(known=START + 21 * SECOND, purchases=2)])
        assert self.ann(world, tmp_path) == [None, None, 1, 2]

    def test_a_backdated_row_is_joined_from_its_creation(self, world: World, source: Path, tmp_path: Path) -> None:
        """Dated before the first event, but created after the third, and so known only then."""
        write_source(source, [row(dated=START - SECOND, created=START + 21 * SECOND, known=START + 21 * SECOND)])
        assert self.ann(world, tmp_path) == [None, None, None, 7]

    def test_a_row_whose_timestamps_lie_is_refused(self, world: World, source: Path, tmp_path: Path) -> None:
        write_source(source, [row(dated=START - SECOND, created=START - SECOND, known=START + 21 * SECOND)])
        with pytest.raises(LeakError, match=r"view next_day leaks into 3 rows: for user 'ann'.*1998-01-01T00:00:21"):
            self.ann(world, tmp_path)
        assert not (tmp_path / "rows.parquet").exists()

    def test_a_value_of_the_same_time_is_refused(self, world: World, source: Path, tmp_path: Path) -> None:
        write_source(source, [row(dated=START - SECOND, created=START - SECOND, known=START)])
        with pytest.raises(LeakError, match="leaks into 1 rows"):
            self.ann(world, tmp_path)

    def test_a_row_from_the_future_is_refused(self, world: World, source: Path, tmp_path: Path) -> None:
        write_source(source, [row(known=START), row(known=4_000_000_000 * SECOND)])
        with pytest.raises(LeakError, match=r"event_timestamp 2096-.* lies in the future"):
            self.ann(world, tmp_path)

    def test_a_row_without_a_time_is_refused(self, world: World, source: Path, tmp_path: Path) -> None:
        write_source(source, [row(known=START), {**row(known=START), names.CREATED_TIMESTAMP: None}])
        with pytest.raises(LeakError, match="1 rows have no created_timestamp"):
            self.ann(world, tmp_path)

    @pytest.mark.parametrize("column", [names.EVENT_TIMESTAMP, names.CREATED_TIMESTAMP, names.KNOWN_AT])
    def test_a_source_without_times_is_refused(self, world: World, source: Path, tmp_path: Path, column: str) -> None:
        pq.write_table(pq.read_table(source).drop_columns([column]), source)
        with pytest.raises(LeakError, match=f"no column {column}"):
            self.ann(world, tmp_path)


def row(
    *, known: int, dated: int | None = None, created: int | None = None, purchases: int = 7
) -> dict[str, int | str | None]:
    return {
        names.USER_ID: "ann",
        "purchases": purchases,
        names.KNOWN_AT: known,
        names.EVENT_TIMESTAMP: known if dated is None else dated,
        names.CREATED_TIMESTAMP: known if created is None else created,
    }


def write_source(path: Path, rows: Sequence[Mapping[str, int | str | None]]) -> None:
    moment = pa.timestamp("us", tz="UTC")
    schema = pa.schema(
        [
            (names.USER_ID, pa.string()),
            ("purchases", pa.int64()),
            (names.KNOWN_AT, pa.int64()),
            (names.EVENT_TIMESTAMP, moment),
            (names.CREATED_TIMESTAMP, moment),
        ]
    )
    pq.write_table(pa.Table.from_pylist([dict(row) for row in rows], schema=schema), path)
