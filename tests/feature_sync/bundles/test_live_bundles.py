"""Live bundles: bundles that an alias names or has just left, or the bundle of a configured folder."""

from __future__ import annotations

import shutil
import threading
from pathlib import Path

import pytest
import structlog
from mlflow import MlflowClient

from feature_sync.bundles.live_bundles import LiveBundles
from feature_sync.bundles.registry import BUNDLE_CACHE, find_versions, open_registry
from feature_sync.core.settings import Settings
from tandem.contract import names
from tandem.contract.bundle import Bundle
from tests.support.hostile_bundles import tower_that_fills_memory
from tests.support.scripted_registry import scripted_registry
from tests.support.serving import MlflowRegistry
from tests.support.small_disk import remount, small_disk
from tests.support.waiting import wait_until

pytestmark = pytest.mark.process


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> MlflowRegistry:
    return MlflowRegistry(tmp_path_factory.mktemp("registry"))


@pytest.fixture
def settings(registry: MlflowRegistry, tmp_path: Path, request: pytest.FixtureRequest) -> Settings:
    return Settings(
        registry_uri=registry.uri, model_name=request.node.name, data_dir=tmp_path, registry_poll_seconds=0.05
    )


def versions(live: LiveBundles) -> list[str]:
    return [bundle.manifest.model_version for bundle in live.current()]


def test_champion_and_challenger_are_followed(
    registry: MlflowRegistry, settings: Settings, bundle_dir: Path, other_bundle_dir: Path
) -> None:
    changes: list[int] = []
    live = LiveBundles(settings, on_change=lambda: changes.append(1))
    live.poll()
    assert (versions(live), changes) == ([], [])  # nothing is registered yet
    name = settings.model_name
    registry.register(bundle_dir, model_name=name, model_version="m1", alias=names.CHAMPION)
    live.poll()
    live.poll()
    assert (versions(live), changes) == (["m1"], [1])
    number = registry.register(other_bundle_dir, model_name=name, model_version="m2", alias=names.CHALLENGER)
    live.poll()
    assert versions(live) == ["m1", "m2"]
    registry.move_alias(name, names.CHAMPION, number)
    live.poll()
    assert versions(live) == ["m2", "m1"]
    assert {path.name for path in (settings.data_dir / BUNDLE_CACHE).iterdir()} == {"m1", "m2"}


def test_further_models_are_live_and_served(
    registry: MlflowRegistry, settings: Settings, bundle_dir: Path, other_bundle_dir: Path
) -> None:
    name = settings.model_name
    registry.register(bundle_dir, model_name=name, model_version="m1", alias=names.CHAMPION)
    number = registry.register(other_bundle_dir, model_name=name, model_version="m2", alias=names.CHALLENGER)
    live = LiveBundles(settings, on_change=lambda: None)
    live.poll()
    assert (versions(live), served(live)) == (["m1", "m2"], ["m1"])  # the challenger may serve, and does not yet
    for further in ("absent,challenger", f"{number},challenger,absent", "absent,champion," + number):
        live = LiveBundles(settings.model_copy(update={"further_models": further}), on_change=lambda: None)
        with structlog.testing.capture_logs() as logs:
            live.poll()
            live.poll()
        assert (versions(live), served(live)) == (["m1", "m2"], ["m1", "m2"])
        missing = [line["alias"] for line in logs if line["event"] == "further_model_has_no_version"]
        assert missing == ["absent"]


def served(live: LiveBundles) -> list[str]:
    return [bundle.manifest.model_version for bundle in live.served()]


def test_a_bundle_that_its_alias_has_left_is_live_for_a_while(
    registry: MlflowRegistry, settings: Settings, bundle_dir: Path, other_bundle_dir: Path
) -> None:
    name = settings.model_name
    registry.register(bundle_dir, model_name=name, model_version="m1", alias=names.CHAMPION)
    patient, hasty = (LiveBundles(settings, on_change=lambda: None, grace_seconds=seconds) for seconds in (60.0, 0.0))
    for live in (patient, hasty):
        live.poll()
    registry.register(other_bundle_dir, model_name=name, model_version="m2", alias=names.CHAMPION)
    for live in (patient, hasty):
        live.poll()
    assert versions(patient) == ["m2", "m1"]
    assert versions(hasty) == ["m2"]


def test_a_tag_is_never_a_path(settings: Settings, bundle_dir: Path) -> None:
    """Anybody who may write to the registry chooses the tag."""
    tags = ["../../../planted", str(settings.data_dir.parent / "planted"), "a/b", "a\\b", "..", "", "x" * 200]
    with scripted_registry() as hostile, structlog.testing.capture_logs() as logs:
        live = LiveBundles(
            settings.model_copy(update={"registry_uri": hostile.uri(), "model_name": "tandem"}), on_change=lambda: None
        )
        hostile.source = bundle_dir
        for hostile.tag in tags:
            live.poll()
            live.poll()
    assert versions(live) == []
    assert [(line["event"], line["reason_kind"]) for line in logs] == [("bundle_refused", "incompatible")] * len(tags)
    assert list(settings.data_dir.iterdir()) == []
    assert not (settings.data_dir.parent / "planted").exists()


def test_a_hostile_champion_costs_no_challenger(
    registry: MlflowRegistry, settings: Settings, bundle_dir: Path, tmp_path: Path
) -> None:
    """Every alias is looked at, and what fails once is not tried again; checks run in processes with limits."""
    name, hostile = settings.model_name, tmp_path / "hostile"
    shutil.copytree(bundle_dir, hostile)
    tower_that_fills_memory(hostile)
    registry.register(hostile, model_name=name, model_version="m0", alias=names.CHAMPION)
    registry.register(bundle_dir, model_name=name, model_version="m1", alias=names.CHALLENGER)
    live = LiveBundles(settings.model_copy(update={"bundle_check_memory_mb": 1024}), on_change=lambda: None)
    with structlog.testing.capture_logs() as logs:
        live.poll()
        live.poll()
    assert versions(live) == ["m1"]
    refused = [line for line in logs if line["event"] == "bundle_refused"]
    assert [line["model_version"] for line in refused] == ["m0"]
    assert "item_tower.onnx failed" in refused[0]["error"]
    assert {path.name for path in (settings.data_dir / BUNDLE_CACHE).iterdir()} == {"m1"}


def test_a_check_that_does_not_end_is_ended(bundle_dir: Path, tmp_path: Path) -> None:
    settings = Settings(bundle_path=bundle_dir, data_dir=tmp_path, bundle_timeout_seconds=1.0)
    live = LiveBundles(settings.model_copy(update={"bundle_timeout_seconds": 0.05}), on_change=lambda: None)
    with structlog.testing.capture_logs() as logs:
        live.poll()
    assert versions(live) == []
    assert "did not end within 0.05 s" in logs[0]["error"]


def test_a_bundle_that_must_not_be_served_is_left_out(
    registry: MlflowRegistry, settings: Settings, bundle_dir: Path, tmp_path: Path
) -> None:
    name = settings.model_name
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "manifest.json").write_text("{}")
    registry.register(bundle_dir, model_name=name, model_version="m1", alias=names.CHAMPION)
    registry.register(broken, model_name=name, model_version="broken", alias=names.CHALLENGER)
    live = LiveBundles(settings, on_change=lambda: None)
    live.poll()
    live.poll()
    assert versions(live) == ["m1"]


def test_known_bundles_stay_live_while_the_registry_is_down(
    registry: MlflowRegistry, settings: Settings, bundle_dir: Path, tmp_path: Path
) -> None:
    registry.register(bundle_dir, model_name=settings.model_name, model_version="m1", alias=names.CHAMPION)
    live = LiveBundles(settings, on_change=lambda: None)
    live.poll()
    moved = registry.database.with_suffix(".away")
    Path(registry.database).rename(moved)
    try:
        live.poll()
    finally:
        Path(moved).rename(registry.database)
    assert versions(live) == ["m1"]


def test_a_disk_that_is_full_or_read_only_is_named_and_leaves_nothing(
    registry: MlflowRegistry, settings: Settings, bundle_dir: Path, tmp_path: Path
) -> None:
    registry.register(bundle_dir, model_name=settings.model_name, model_version="m1", alias=names.CHAMPION)
    with small_disk(tmp_path / "disk", kibibytes=96) as disk, structlog.testing.capture_logs() as logs:
        cache = disk / BUNDLE_CACHE
        live = LiveBundles(settings.model_copy(update={"data_dir": disk}), on_change=lambda: None)
        (disk / "ballast").write_bytes(bytes(64 << 10))
        live.poll()
        assert (versions(live), list(cache.iterdir())) == ([], [])
        remount(disk, "ro")
        live.poll()
        remount(disk, "rw,size=4096k")
        live.poll()
        assert (versions(live), [path.name for path in cache.iterdir()]) == (["m1"], ["m1"])
    full, read_only = (line["error"] for line in logs if line["event"] == "registry_unreadable")
    assert f"version 1 from {registry.uri.removeprefix('sqlite:///').rpartition('/')[0]}" in full
    assert full.count("No space left on device") == 1
    assert "[Errno" not in full + read_only
    assert read_only.endswith("Read-only file system")


def test_a_configured_folder_replaces_the_registry(bundle: Bundle, tmp_path: Path) -> None:
    settings = Settings(bundle_path=bundle.directory, registry_uri=f"sqlite:///{tmp_path}/none.db", data_dir=tmp_path)
    live = LiveBundles(settings, on_change=lambda: None)
    assert live.merged_sequence() is None
    live.poll()
    live.poll()
    assert versions(live) == ["m1"]
    assert live.merged_sequence() == 0


def test_it_runs_until_it_is_stopped(bundle: Bundle, tmp_path: Path) -> None:
    settings = Settings(bundle_path=bundle.directory, data_dir=tmp_path, registry_poll_seconds=0.01)
    live = LiveBundles(settings, on_change=lambda: None)
    thread = threading.Thread(target=live.run)
    thread.start()
    wait_until(lambda: versions(live) == ["m1"], "the bundle is found")
    live.stop()
    thread.join(timeout=10)
    assert not thread.is_alive()


def test_an_alias_that_names_nothing_is_no_error(registry: MlflowRegistry, settings: Settings) -> None:
    client = MlflowClient(tracking_uri=registry.uri, registry_uri=registry.uri)
    client.create_registered_model(settings.model_name)
    assert find_versions(open_registry(settings), [names.CHAMPION]) == []


def test_a_model_without_an_alias_is_named_in_the_log_once(
    registry: MlflowRegistry, settings: Settings, bundle_dir: Path
) -> None:
    live = LiveBundles(settings, on_change=lambda: None)
    name = settings.model_name
    registry.register(bundle_dir, model_name=name, model_version="m1", alias=names.CHAMPION)
    with structlog.testing.capture_logs() as logs:
        live.poll()
        client = MlflowClient(tracking_uri=registry.uri, registry_uri=registry.uri)
        client.rename_registered_model(name, f"{name}-renamed")
        live.poll()
        live.poll()
    missing = [line for line in logs if line["event"] == "alias_has_no_version"]
    assert [(line["model_name"], line["aliases"]) for line in missing] == [(name, ["champion", "challenger"])]
    assert versions(live) == ["m1"], "it stays for a while"
