"""The applied feature store: views, online values, expiry, repeated materialisation."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from feature_sync.core.errors import FeatureStoreError, SettingsError
from feature_sync.core.settings import Settings
from feature_sync.features.feast_store import FeastStore, feast_environment
from feature_sync.features.source_columns import SOURCES
from feature_sync.features.sources import features_dir, source_path
from feature_sync.features.update import MaterialiseReport, materialise
from tandem.contract import names
from tandem.contract.store import KEY_PREFIX
from tests.feature_sync.features.conftest import ITEM_IDS, World
from tests.feature_sync.prepared_data import Interaction, write_prepared

FEAST_KEY = b"\x01\x00\x00\x00\x02\x00\x00\x00\x07\x00\x00\x00user_id\x02\x00\x00\x00\x03\x00\x00\x00anntandem"
"""A join key (text of 7 bytes), its value (text of 3 bytes), and the project."""


@pytest.mark.process
def test_registered_fields_are_the_sources_columns(world: World) -> None:
    with FeastStore(world.settings) as store:
        fields = {view.name: set(view.fields) for view in store.views()}
    demographics = {names.USER_PROFILE_VIEW: {"age", "gender"}}
    assert fields == {
        view: (set(columns.all) - {columns.entity}) | demographics.get(view, set()) for view, columns in SOURCES.items()
    }


@pytest.mark.process
def test_the_first_materialisation_takes_rows_of_any_age(world: World, first_report: MaterialiseReport) -> None:
    assert first_report.materialised_since[names.USER_COUNTS_VIEW].startswith("1998-01-01T00:00:00")
    assert first_report.materialised_since.keys() == SOURCES.keys()
    with FeastStore(world.settings) as store:
        counts = store.online(world.view(store, names.USER_COUNTS_VIEW), ["ann", "stranger"])
        profile = store.online(world.view(store, names.USER_PROFILE_VIEW), ["ann", "bob", "cem"])
        vector = store.online(world.view(store, names.USER_VECTOR_VIEW), ["ann"])
        items = store.online(world.view(store, names.ITEM_PROFILE_VIEW), ["item-3"])
        text = store.online(world.view(store, names.ITEM_TEXT_VIEW), ["item-3"])
        item_vector = store.online(world.view(store, names.ITEM_VECTOR_VIEW), ["item-3"])
        item_counts = store.online(world.view(store, names.ITEM_COUNTS_VIEW), ["item-1"])
    assert counts["ann"]["num_click"] == 4
    assert set(counts["stranger"].values()) == {None}
    assert [(profile[user]["gender"], profile[user]["age"]) for user in ("ann", "bob", "cem")] == [
        ("F", "49"),
        ("M", None),
        (None, None),
    ]
    assert vector["ann"][names.MODEL_VERSION] == "m1"
    assert items["item-3"][names.TITLE] == "Title item-3"
    assert items["item-3"][names.POPULARITY] == world.bundle.items.item(3).popularity
    assert np.linalg.norm(text["item-3"][names.TEXT_EMBEDDING]) == pytest.approx(1, abs=1e-5)
    assert item_vector["item-3"][names.ITEM_VECTOR] == world.bundle.item_vectors[3].tolist()
    assert item_counts["item-1"]["num_click"] == 2


@pytest.mark.process
def test_a_repeated_materialisation_adds_nothing_and_starts_where_the_last_ended(settled: World) -> None:
    before = {key: settled.client.hgetall(key) for key in settled.client.scan_iter(b"\x01*")}
    first, second = settled.materialise(), settled.materialise()
    assert set(second.rows_observed.values()) == {0}
    assert second.materialised_since.keys() == SOURCES.keys()
    assert min(second.materialised_since.values()) > max(first.materialised_since.values())
    assert {key: settled.client.hgetall(key) for key in settled.client.scan_iter(b"\x01*")} == before


@pytest.mark.process
def test_feast_has_the_serving_values_after_a_materialisation(settled: World) -> None:
    settled.click("bob", "item-9")
    settled.click("new visitor", "item-9")
    report = settled.materialise()
    assert report.rows_observed[names.USER_COUNTS_VIEW] == 2
    with FeastStore(settled.settings) as store:
        online = store.online(settled.view(store, names.USER_COUNTS_VIEW), ["bob", "new visitor"])
    assert online["bob"]["num_click"] == int(settled.state("bob").event_counts[1])
    assert online["new visitor"]["num_click"] == 1
    settled.assert_equal()


@pytest.mark.process
def test_feasts_keys_are_separate_and_expire(settled: World) -> None:
    keys = set(settled.client.scan_iter())
    ours = {key for key in keys if key.startswith(KEY_PREFIX)}
    feasts = keys - ours
    assert FEAST_KEY in feasts
    assert all(key.startswith(b"\x01\x00\x00\x00\x02") and key.endswith(b"tandem") for key in feasts)
    assert len(feasts) >= 3 + len(ITEM_IDS)
    assert all(0 < settled.client.ttl(key) <= settled.settings.features_ttl_seconds for key in feasts)


@pytest.mark.process
def test_a_materialisation_renews_unchanged_keys(settled: World) -> None:
    settled.client.expire(FEAST_KEY, 60)
    report = settled.materialise()
    assert settled.client.ttl(FEAST_KEY) > 60
    assert report.num_keys_renewed >= 3 + len(ITEM_IDS)


@pytest.mark.process
def test_materialising_needs_an_applied_store(world: World, tmp_path: Path) -> None:
    elsewhere = world.settings.model_copy(update={"data_dir": tmp_path})
    with pytest.raises(FeatureStoreError, match="features apply"):
        materialise(elsewhere, world.prepared, bundle_dir=world.bundle.directory)


@pytest.mark.process
def test_the_variables_of_feasts_own_command_line_are_printed(world: World) -> None:
    """`apply` runs that command line with the same variables."""
    ours = {"TANDEM_STORE_URL": world.settings.store_url, "TANDEM_DATA_DIR": str(world.settings.data_dir)}
    script = f'eval "$({sys.executable} -m feature_sync features env)" && env -0'
    done = subprocess.run(
        ["bash", "-c", script], env={**os.environ, **ours}, capture_output=True, text=True, check=True, timeout=60
    )
    variables = dict(entry.split("=", 1) for entry in done.stdout.rstrip("\0").split("\0"))
    assert feast_environment(world.settings).items() <= variables.items()


@pytest.mark.parametrize(
    ("url", "connection"),
    [
        ("redis://host", "host:6379,db=0"),
        ("redis://127.0.0.1:6380/2", "127.0.0.1:6380,db=2"),
        ("rediss://ann:s%40ves@host:1/0", 'host:1,db=0,ssl=true,username="ann",password="s@ves"'),
        ("redis://:007@host/0", 'host:6379,db=0,password="007"'),
        ("unix:///run/store.sock?db=1", 'localhost:6379,db=1,unix_socket_path="/run/store.sock"'),
    ],
)
def test_the_store_url_is_converted_for_feast(url: str, connection: str) -> None:
    assert feast_environment(Settings(store_url=url))["TANDEM_FEAST_REDIS"] == connection


def test_a_password_that_feast_cannot_take_is_refused() -> None:
    with pytest.raises(SettingsError, match="password"):
        feast_environment(Settings(store_url="redis://:a,b@host/0"))


@pytest.mark.parametrize("name", ["user_id=zzz", "data*", "data[1]"])
def test_a_data_folder_that_feast_would_misread_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(SettingsError, match="TANDEM_DATA_DIR: Feast cannot read sources below a folder named"):
        feast_environment(Settings(data_dir=tmp_path / name / "data"))


@pytest.mark.process
def test_other_demographics_need_another_registration(settled: World, tmp_path: Path) -> None:
    other = write_prepared(tmp_path / "other", [Interaction("ann", "item-0", 1)], users={"ann": {"city": "Oslo"}})
    (other / "items.parquet").write_bytes((settled.prepared / "items.parquet").read_bytes())
    profile = source_path(features_dir(settled.settings.data_dir), names.USER_PROFILE_VIEW)
    before = profile.read_bytes()
    with pytest.raises(FeatureStoreError, match="no field city"):
        materialise(settled.settings, other, bundle_dir=settled.bundle.directory)
    profile.write_bytes(before)
