"""The rule for events comes from the champion's bundle, in whatever state the registry is."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from feature_sync.bundles.live_bundles import LiveBundles
from feature_sync.bundles.registry import BUNDLE_CACHE
from feature_sync.core.errors import Unavailable
from feature_sync.core.settings import Settings
from feature_sync.events.event_rule import ServedEventRule
from tandem.contract.bundle import read_manifest
from tandem.contract.event_rule import EventRule
from tandem.contract.manifest import MANIFEST
from tests.feature_sync.prepared_data import EVENT_WEIGHTS, with_event_weights

pytestmark = pytest.mark.process  # a bundle is checked in a process of its own


def with_min_rating(source: Path, directory: Path, min_rating: float | None) -> Path:
    shutil.copytree(source, directory)
    manifest = replace(read_manifest(directory), min_rating=min_rating)
    (directory / MANIFEST).write_text(manifest.to_json())
    return directory


def rule_of(settings: Settings) -> tuple[ServedEventRule, LiveBundles]:
    bundles = LiveBundles(settings, on_change=lambda: None)
    return ServedEventRule(settings, bundles), bundles


def nowhere(folder: Path, **settings: object) -> Settings:
    return Settings(registry_uri=f"sqlite:///{folder / 'none.db'}", data_dir=folder, **settings)  # type: ignore[arg-type]


@pytest.mark.parametrize("min_rating", [None, 3.5, 4])
def test_the_live_bundle_says_which_ratings_are_choices(
    bundle_dir: Path, tmp_path: Path, min_rating: float | None
) -> None:
    path = with_min_rating(bundle_dir, tmp_path / "bundle", min_rating)
    rule, bundles = rule_of(nowhere(tmp_path, bundle_path=path))
    with pytest.raises(Unavailable, match="which events are choices is unknown"):
        rule.current()
    bundles.poll()
    assert rule.current().min_rating == min_rating


def test_an_older_bundle_has_no_rule(bundle_dir: Path, tmp_path: Path) -> None:
    path = with_min_rating(bundle_dir, tmp_path / "bundle", None)
    text = (
        (path / MANIFEST)
        .read_text()
        .replace('"min_rating": null,', "")
        .replace('"format_version": 6', '"format_version": 4')
    )
    assert "min_rating" not in text
    (path / MANIFEST).write_text(text)
    rule, bundles = rule_of(nowhere(tmp_path, bundle_path=path))
    bundles.poll()
    assert rule.current().min_rating is None


def test_without_a_registry_the_bundle_used_last_says_it(bundle_dir: Path, tmp_path: Path) -> None:
    with_min_rating(bundle_dir, tmp_path / BUNDLE_CACHE / "m1", 4)
    rule, _ = rule_of(nowhere(tmp_path))
    assert rule.current().min_rating == 4


def test_without_any_model_every_rating_is_a_choice(tmp_path: Path) -> None:
    rule, bundles = rule_of(nowhere(tmp_path))
    bundles.poll()
    assert rule.current().min_rating is None


def test_the_live_bundle_says_which_events_are_the_strongest(bundle_dir: Path, tmp_path: Path) -> None:
    path = with_event_weights(bundle_dir, tmp_path / "bundle")
    rule, bundles = rule_of(nowhere(tmp_path, bundle_path=path, event_min_rating=2.0))
    bundles.poll()
    assert rule.current() == EventRule(min_rating=2.0, event_weights=EVENT_WEIGHTS)


def test_the_setting_takes_precedence(bundle_dir: Path, tmp_path: Path) -> None:
    path = with_min_rating(bundle_dir, tmp_path / "bundle", 4)
    rule, bundles = rule_of(nowhere(tmp_path, bundle_path=path, event_min_rating=2.5))
    bundles.poll()
    assert rule.current().min_rating == 2.5
