"""Stored vectors are refreshed after events change users' states."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from feature_sync.events.user_vectors import UserVectorRefresher
from feature_sync.store.connection import StoreConnection
from feature_sync.telemetry.metrics import Metrics
from tandem.contract.bundle import Bundle, read_bundle
from tandem.contract.store import UserVector, user_state_key, user_vector_key
from tests.feature_sync.conftest import ITEM_IDS
from tests.feature_sync.event_rig import Rig, Stream, drain, event
from tests.support.tiny_bundle import mean_vector

pytestmark = pytest.mark.process


class RefreshedVectors:
    def __init__(self, stream: Stream, bundle: Bundle) -> None:
        self.is_behind = False
        self.bundles: list[Bundle] = [bundle]
        self.store = StoreConnection(stream.url)
        self.refresher = UserVectorRefresher(
            self.store,
            served_bundles=lambda: self.bundles,
            is_behind=lambda: self.is_behind,
            ttl_seconds=60,
            metrics=Metrics(),
        )
        self._stream = stream

    def record(self, user_id: str, *items: int) -> None:
        for item in items:
            self._stream.append(event(item, event_id=f"{user_id} {item}", user_id=user_id, item_id=ITEM_IDS[item]))
        rig = Rig(self._stream.url)
        drain(self._stream, rig)
        self.refresher.add(rig.changed_users)

    def vector(self, user_id: str) -> UserVector | None:
        value = self._stream.client.get(user_vector_key("m1", user_id))
        return UserVector.from_bytes(value) if value else None


@pytest.fixture
def refreshed(stream: Stream, bundle: Bundle) -> Iterator[RefreshedVectors]:
    refreshed = RefreshedVectors(stream, bundle)
    yield refreshed
    refreshed.store.close()


def test_a_changed_state_gets_its_vector(refreshed: RefreshedVectors, bundle: Bundle, stream: Stream) -> None:
    refreshed.record("ann", 3, 5)
    refreshed.record("bob", 7)
    refreshed.refresher.step()
    for user_id, items in {"ann": [3, 5], "bob": [7]}.items():
        vector = refreshed.vector(user_id)
        assert vector is not None
        assert vector.state_revision == stream.state(user_id).revision
        expected = mean_vector(bundle, [ITEM_IDS[item] for item in items])
        np.testing.assert_allclose(vector.values, expected, atol=1e-6)
        assert 0 < stream.client.ttl(user_vector_key("m1", user_id)) <= 60


@pytest.mark.parametrize("obstacle", ["is_behind", "bundles"])
def test_pauses_while_events_wait_or_no_bundle_is_known(refreshed: RefreshedVectors, obstacle: str) -> None:
    refreshed.record("ann", 3)
    before = getattr(refreshed, obstacle)
    setattr(refreshed, obstacle, True if obstacle == "is_behind" else [])
    refreshed.refresher.step()
    assert refreshed.vector("ann") is None
    setattr(refreshed, obstacle, before)
    refreshed.refresher.step()
    assert refreshed.vector("ann") is not None


def test_users_without_a_readable_state_are_skipped(refreshed: RefreshedVectors, stream: Stream) -> None:
    refreshed.record("ann", 3)
    stream.client.set(user_state_key("bob"), b"\xff")
    refreshed.refresher.add(["bob", "nobody"])
    refreshed.refresher.step()
    assert refreshed.vector("ann") is not None
    assert refreshed.vector("bob") is refreshed.vector("nobody") is None


def test_every_served_bundle_gets_a_vector(
    refreshed: RefreshedVectors, bundle: Bundle, other_bundle_dir: Path, stream: Stream
) -> None:
    refreshed.bundles.append(read_bundle(other_bundle_dir))
    refreshed.record("ann", 3, 5)
    refreshed.refresher.step()
    for served in refreshed.bundles:
        value = stream.client.get(user_vector_key(served.manifest.model_version, "ann"))
        expected = mean_vector(served, [ITEM_IDS[3], ITEM_IDS[5]])
        np.testing.assert_allclose(UserVector.from_bytes(value).values, expected, atol=1e-6)
    refreshed.bundles.remove(bundle)
    refreshed.record("bob", 7)
    refreshed.refresher.step()
    assert refreshed.vector("bob") is None, "m1 is served no longer"
    assert stream.client.get(user_vector_key("m2", "bob")) is not None
