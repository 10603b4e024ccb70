"""An emptied store is rebuilt: users, counters, trending items and event ids are what they were."""

from __future__ import annotations

import dataclasses
import math
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType

import pytest

from feature_sync.archive.archiver import Archiver
from feature_sync.core.settings import Settings
from feature_sync.publish.publish import publish
from feature_sync.publish.rebuild import RebuildReport, rebuild
from feature_sync.store.connection import StoreConnection
from feature_sync.telemetry.metrics import Metrics
from tandem.contract.store import (
    UserState,
    UserVector,
    item_counters_key,
    populated_key,
    user_state_key,
    user_vector_key,
)
from tandem.contract.streams import EVENTS, Event, applied_key
from tests.feature_sync.conftest import ITEM_IDS
from tests.feature_sync.event_rig import MARK_SECONDS, Rig, Stream, drain, running
from tests.feature_sync.ledger import Ledger
from tests.feature_sync.prepared_data import EVENT_WEIGHTS, Interaction, with_event_weights
from tests.support.waiting import wait_until

pytestmark = pytest.mark.process

Prepare = Callable[..., Path]
USERS = ("ann", "bob", "cat", "new")
DAY = 24 * 3600 * 1_000_000


class World:
    """A published store with a consumer and an archive."""

    event_weights: Mapping[str, float] = MappingProxyType({})
    """The rule of the bundle."""

    def __init__(self, folder: Path, url: str, bundle_dir: Path, prepared: Path, stream: Stream) -> None:
        self.settings = Settings(
            store_url=url,
            data_dir=folder,
            event_id_seconds=MARK_SECONDS,
            event_min_rating=3.0,
            trending_half_life_seconds=3600,
            trending_weights={"click": 1.0, "purchase": 5.0},
            trending_items=10,
        )
        self.url, self.bundle_dir, self.prepared, self.stream = url, bundle_dir, prepared, stream
        publish(self.settings, prepared, bundle_dir=bundle_dir)

    def rig(self) -> Rig:
        return Rig(self.url, min_rating=3.0, event_weights=self.event_weights, batch_entries=3)

    def now(self) -> int:
        seconds, microseconds = self.stream.client.time()
        return int(seconds) * 1_000_000 + int(microseconds)

    def apply(self, *events: Event) -> None:
        self.stream.append(*events)
        drain(self.stream, self.rig())

    def archive(self) -> None:
        """Moves what is applied into files."""
        archiver = Archiver(
            StoreConnection(self.url),
            EVENTS,
            self.settings.data_dir / EVENTS,
            flush_rows=2,
            flush_seconds=0,
            metrics=Metrics().of_archive(EVENTS),
        )
        archiver.stop()
        archiver.run()
        assert self.stream.client.xlen(applied_key(EVENTS)) == 0

    def rebuild(self) -> RebuildReport:
        return rebuild(self.settings, self.prepared, bundle_dir=self.bundle_dir)

    def follow_event_weights(self) -> None:
        """Publishes and applies by the rule of a bundle in which the strongest event of an item stands for all."""
        self.event_weights = EVENT_WEIGHTS
        self.bundle_dir = with_event_weights(self.bundle_dir, self.settings.data_dir / "weighing")
        publish(self.settings, self.prepared, bundle_dir=self.bundle_dir)

    def snapshot(self, users: tuple[str, ...] = USERS) -> dict[str, object]:
        """Everything that a rebuild restores, by value; revisions are new."""
        client = self.stream.client
        states = {user: self.stream.state(user) for user in users}
        (scores,) = client.keys("tandem/1/trending/3600/*") or [b""]
        listed = dict(client.zrange(scores, 0, -1, withscores=True)) if scores else {}
        return {
            "states": {user: _without_revision(state) for user, state in states.items()},
            "counters": {item_id: client.hgetall(item_counters_key(item_id)) for item_id in ITEM_IDS},
            "trending": {item: round(math.log(score), 5) for item, score in listed.items()},
            "populated": client.get(populated_key()),
        }


def _without_revision(state: UserState) -> bytes:
    return state.to_bytes()[:8] + state.to_bytes()[16:]


@pytest.fixture
def world(tmp_path: Path, store_url: str, bundle_dir: Path, prepare: Prepare, stream: Stream) -> World:
    start = 1_700_000_000_000_000
    prepared = prepare(
        [
            Interaction(user, ITEM_IDS[number], start + number * 1_000_000)
            for user in ("ann", "bob", "cat")
            for number in range(3)
        ],
        users={user: {"gender": "F"} for user in ("ann", "bob", "cat")},
    )
    return World(tmp_path, store_url, bundle_dir, prepared, stream)


def happened(world: World) -> list[Event]:
    """Events of four users: clicks, repetitions, a late event, a low rating, an impression, a user without prepared
    data."""
    now = world.now()
    numbers = iter(range(1000))

    def event(user: str, item: int, kind: str = "click", *, age: int = 0, value: float = 0.0) -> Event:
        return Event(
            event_id=f"e{next(numbers)}",
            user_id=user,
            item_id=ITEM_IDS[item],
            type=kind,
            occurred_at=now - age * 1_000_000,
            received_at=now,
            value=value,
        )

    return [
        event("ann", 5, age=100),
        event("ann", 6, age=90),
        event("ann", 5, "purchase", age=80),
        event("ann", 7, age=3_000),  # it arrives late
        event("ann", 8, "rating", value=2.0),  # below the smallest rating
        event("ann", 9, "rating", value=4.0),
        event("ann", 1, age=10),  # known from the prepared data
        event("bob", 6, "impression"),
        event("bob", 6, "impression"),
        event("new", 12, age=50),
        event("new", 13, "purchase", age=40),
    ]


@pytest.mark.parametrize(("archived", "weighs"), [("all", False), ("some", False), ("none", False), ("some", True)])
def test_an_emptied_store_is_what_it_was(world: World, archived: str, weighs: bool) -> None:
    events = happened(world)
    if weighs:
        world.follow_event_weights()
        events.append(dataclasses.replace(events[0], event_id="again", item_id=ITEM_IDS[0], type="purchase"))
    world.apply(*events[:6])
    if archived != "none":
        world.archive()
    world.apply(*events[6:])
    if archived == "all":
        world.archive()
    before = world.snapshot()
    # Ann's purchases of items that she clicked, or that the prepared data have.
    assert [row["counts"].tolist() for row in world.stream.state("ann").merged] == (
        [[0, 1, 0, 0, 1, 0], [0, 0, 0, 1, 1, 0], [0, 1, 0, 1, 0, 0]][: 3 * weighs]
    )
    log = world.stream.client.xrange(applied_key(EVENTS))
    world.stream.client.flushall()
    for position, fields in log:  # the log is lost with the store; kept here to rebuild from what is in no file yet
        world.stream.client.xadd(applied_key(EVENTS), fields, id=position)

    report = world.rebuild()
    assert world.snapshot() == before
    assert report.num_events == len(events)
    assert report.published.num_users == len(USERS)
    assert report.published.num_states_written == len(USERS)
    assert report.num_event_ids == len(events)
    state = world.stream.state("ann")
    vector = UserVector.from_bytes(world.stream.client.get(user_vector_key("m1", "ann")))
    assert vector.state_revision == state.revision, "the vector belongs to the state"

    again = world.rebuild()
    assert world.snapshot() == before, "a second rebuild changes nothing"
    assert (again.published.num_states_written, again.published.num_vectors_written) == (0, 0)

    world.apply(*events)
    assert world.snapshot() == before, "a repeated event takes no effect"


def test_it_changes_nothing_in_a_store_that_lost_nothing(world: World) -> None:
    events = happened(world)
    world.apply(*events[:6])
    world.archive()
    world.apply(*events[6:])
    before = world.snapshot()
    values = {user: world.stream.client.get(user_state_key(user)) for user in USERS}
    report = world.rebuild()
    assert world.snapshot() == before
    assert {user: world.stream.client.get(user_state_key(user)) for user in USERS} == values, "byte for byte"
    assert report.published.num_states_written == 0


def test_what_only_the_store_holds_is_kept(world: World) -> None:
    world.apply(*happened(world))
    world.stream.client.delete(applied_key(EVENTS))  # nothing of it is in the archive
    before = world.snapshot()["states"]
    world.rebuild()
    assert world.snapshot()["states"] == before


def test_beside_running_consumers_nothing_is_lost_or_doubled(world: World) -> None:
    ledger = Ledger(world.stream.client, events_per_second=50)
    ledger.append(300)
    drain(world.stream, Rig(world.url))
    world.archive()
    world.settings = world.settings.model_copy(update={"event_min_rating": None})
    keys = [key for key in world.stream.client.keys("tandem/1/*") if b"/state/" in key or b"/item-counters/" in key]
    world.stream.client.delete(*keys)
    with running(Rig(world.url)):
        ledger.start()
        for _ in range(2):
            world.rebuild()
        ledger.stop()
        wait_until(lambda: world.stream.num_left == 0, "everything is applied")
    world.rebuild()
    ledger.check_states()
    ledger.check_item_counters()


def test_the_command_finds_the_prepared_data(world: World) -> None:
    world.apply(*happened(world))
    world.archive()
    before = world.snapshot()["states"]
    world.stream.client.flushall()
    (world.settings.data_dir / "prepared").mkdir()
    world.prepared.rename(world.settings.data_dir / "prepared" / "shop")
    done = subprocess.run(
        [sys.executable, "-m", "feature_sync", "rebuild", "--bundle", str(world.bundle_dir)],
        env={
            "TANDEM_STORE_URL": world.url,
            "TANDEM_DATA_DIR": str(world.settings.data_dir),
            "TANDEM_EVENT_MIN_RATING": "3",
        },
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert '"num_users": 4' in done.stdout
    assert world.snapshot()["states"] == before
