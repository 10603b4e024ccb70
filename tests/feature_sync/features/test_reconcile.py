"""Feast's online values are compared with the serving keys: equal in normal operation, and every difference found."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from feature_sync.features.feast_store import FeastStore
from feature_sync.features.reconcile import DIFFERENT, SERVING_NEWER
from feature_sync.features.update import microseconds_now
from feature_sync.publish.publish import publish
from tandem.contract import names
from tandem.contract.live_items import LiveItemVector, item_vectors_feed, items_feed
from tandem.contract.store import user_state_key
from tandem.contract.streams import AppliedItemChange, ItemChange
from tests.feature_sync.features.conftest import ITEM_IDS, World, bundle_with_text

pytestmark = pytest.mark.process

NEW = "item-new"

PLANTED: Mapping[str, tuple[str, dict[str, Any]]] = {
    names.USER_PROFILE_VIEW: ("ann", {"gender": "M"}),
    names.USER_COUNTS_VIEW: ("ann", {"num_purchase": 99}),
    names.USER_VECTOR_VIEW: ("ann", {names.USER_VECTOR: [0.0] * 16}),
    names.ITEM_PROFILE_VIEW: ("item-3", {names.AVAILABLE: False}),
    names.ITEM_COUNTS_VIEW: ("item-1", {"num_click": 99}),
    names.ITEM_TEXT_VIEW: ("item-3", {names.TEXT_EMBEDDING: [0.0] * 384}),
    names.ITEM_VECTOR_VIEW: ("item-3", {names.MODEL_VERSION: "m0"}),
}


def plant(world: World, view_name: str, entity_id: str, values: Mapping[str, Any]) -> None:
    """Overwrites fields of an entity in Feast's online store."""
    with FeastStore(world.settings) as store:
        view = world.view(store, view_name)
        online = store.online(view, [entity_id])[entity_id]
        store.write_online(view, [{view.entity: entity_id, **online, **values}], now=microseconds_now())


def test_after_publishing_and_materialising_all_values_are_equal(settled: World) -> None:
    publish(settled.settings, settled.prepared, bundle_dir=settled.bundle.directory)
    settled.materialise()
    report, found = settled.reconcile()
    assert found == []
    assert report.model_version == "m1"
    assert report.num_users >= 3
    assert report.num_items >= len(ITEM_IDS)


@pytest.mark.parametrize("view", PLANTED)
def test_a_planted_difference_is_found_and_repaired(settled: World, view: str) -> None:
    entity_id, values = PLANTED[view]
    plant(settled, view, entity_id, values)
    report, found = settled.reconcile()
    assert [(d.view, d.entity_id, d.field, d.kind) for d in found] == [(view, entity_id, next(iter(values)), DIFFERENT)]
    assert found[0].online == next(iter(values.values()))
    assert report.different_by_view == {view: 1}
    # Another materialisation would not repair it, because the source has not changed.
    repaired, _ = settled.reconcile(repair=True)
    assert repaired.num_repaired == 1
    settled.assert_equal()


def test_values_that_feast_has_lost_are_found_and_repaired(settled: World) -> None:
    with FeastStore(settled.settings) as store:
        (key,) = store.online_keys(names.ITEM_ID, ["item-5"])
    assert settled.client.delete(key) == 1
    report, found = settled.reconcile()
    assert {difference.entity_id for difference in found} == {"item-5"}
    assert report.different_by_view.keys() == {
        names.ITEM_PROFILE_VIEW,
        names.ITEM_COUNTS_VIEW,
        names.ITEM_TEXT_VIEW,
        names.ITEM_VECTOR_VIEW,
    }
    settled.reconcile(repair=True)
    settled.assert_equal()
    assert settled.client.ttl(key) > 0


def test_events_since_the_materialisation_make_serving_newer(settled: World) -> None:
    settled.click("ann", "item-8")
    report, found = settled.reconcile()
    assert [(d.view, d.entity_id, d.field, d.kind) for d in found] == [
        (names.USER_COUNTS_VIEW, "ann", "num_click", SERVING_NEWER)
    ]
    assert found[0].serving == found[0].online + 1
    assert (report.num_different, report.num_serving_newer) == (0, 1)
    settled.materialise()
    settled.assert_equal()


def test_a_state_that_changed_without_a_new_revision_is_a_difference(settled: World) -> None:
    state = settled.state("bob")
    spoilt = dataclasses.replace(state, event_counts=state.event_counts + np.uint32(1))
    settled.client.set(user_state_key("bob"), spoilt.to_bytes())
    report, found = settled.reconcile()
    settled.client.set(user_state_key("bob"), state.to_bytes())
    assert {d.kind for d in found} == {DIFFERENT}
    assert report.different_by_view == {names.USER_COUNTS_VIEW: len(names.EVENT_COUNTS)}
    settled.assert_equal()


def test_a_new_user_is_newer_in_serving(settled: World) -> None:
    settled.click("newcomer", "item-8")
    _, found = settled.reconcile()
    assert {(d.entity_id, d.kind) for d in found} == {("newcomer", SERVING_NEWER)}
    # A repair does not need a materialisation.
    assert settled.reconcile(repair=True)[0].num_repaired >= 1
    settled.assert_equal()
    settled.materialise()
    settled.assert_equal()


def test_a_changed_item_is_newer_until_the_next_materialisation(settled: World) -> None:
    change = ItemChange(
        item_id=NEW, changed_at=microseconds_now(), title="A heist", categories=("noir",), attributes={"year": "2026"}
    )
    vector = LiveItemVector(1, np.full(16, 0.25, dtype=np.float32))
    settled.client.hset(items_feed().values, NEW, AppliedItemChange(sequence=1, slot=0, change=change).to_bytes())
    settled.client.hset(item_vectors_feed("m1").values, NEW, vector.to_bytes())
    _, found = settled.reconcile()
    assert {(d.view, d.entity_id, d.kind) for d in found} == {
        (names.ITEM_PROFILE_VIEW, NEW, SERVING_NEWER),
        (names.ITEM_VECTOR_VIEW, NEW, SERVING_NEWER),
    }
    settled.materialise()
    settled.assert_equal()
    with FeastStore(settled.settings) as store:
        profile = store.online(settled.view(store, names.ITEM_PROFILE_VIEW), [NEW])[NEW]
        text = store.online(settled.view(store, names.ITEM_TEXT_VIEW), [NEW])[NEW]
    assert (profile[names.TITLE], profile[names.POPULARITY], profile[names.CHANGE_SEQUENCE]) == ("A heist", 0, 1)
    assert len(text[names.TEXT_EMBEDDING]) == 384

    deletion = ItemChange(item_id=NEW, changed_at=microseconds_now(), deleted=True)
    settled.client.hset(items_feed().values, NEW, AppliedItemChange(sequence=2, slot=0, change=deletion).to_bytes())
    _, found = settled.reconcile()
    assert (names.AVAILABLE, SERVING_NEWER) in {(d.field, d.kind) for d in found}
    settled.materialise()
    settled.assert_equal()


def test_a_new_champion_is_newer_until_its_vectors_are_materialised(settled: World, tmp_path: Path) -> None:
    champion = bundle_with_text(tmp_path / "m2", "m2", seed=1)
    publish(settled.settings, settled.prepared, bundle_dir=champion.directory)
    report, found = settled.reconcile(champion)
    assert {d.kind for d in found} == {SERVING_NEWER}
    assert {names.USER_VECTOR_VIEW, names.ITEM_VECTOR_VIEW, names.ITEM_PROFILE_VIEW} == set(
        report.serving_newer_by_view
    )
    settled.materialise(champion)
    assert settled.reconcile(champion)[1] == []
    # And back to the first bundle, as in a rollback.
    settled.materialise()
    settled.assert_equal()


def test_a_sample_compares_the_given_number_of_entities(settled: World) -> None:
    report, _ = settled.reconcile(sample=2)
    assert (report.num_users, report.num_items) == (2, 2)


def test_the_command_prints_differences_and_exits_with_4(settled: World) -> None:
    plant(settled, names.USER_COUNTS_VIEW, "cem", {"num_click": 77})
    command = [sys.executable, "-m", "feature_sync", "features", "reconcile", "--bundle", str(settled.bundle.directory)]
    environment = {
        **os.environ,
        "TANDEM_STORE_URL": settled.settings.store_url,
        "TANDEM_DATA_DIR": str(settled.settings.data_dir),
    }
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 4, done.stderr
    line, report = done.stdout.splitlines()
    assert line == "different user_interaction_counts cem num_click: serving 1, feast 77"
    assert json.loads(report)["different_by_view"] == {names.USER_COUNTS_VIEW: 1}
    assert "leaked" not in done.stderr
    settled.reconcile(repair=True)
    settled.assert_equal()
