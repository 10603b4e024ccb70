"""The rule for events comes from the champion's bundle, in whatever state the registry is."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from feature_sync.bundles.live_bundles import LiveBundles
from feature_sync.bundles.registry import BUNDLE_CACHE
from feature_sync.core.errors import Unavailable
from feature_sync.core.settings import Settings
from feature_sync.events.event_rule import ServedEventRule
from tandem.contract import names
from tandem.contract.bundle import Bundle, read_manifest
from tandem.contract.event_rule import EventRule
from tandem.contract.manifest import MANIFEST
from tests.feature_sync.prepared_data import EVENT_WEIGHTS, with_event_weights
from tests.support.serving import MlflowRegistry

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
        .replace('"format_version": 7', '"format_version": 4')
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


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> MlflowRegistry:
    return MlflowRegistry(tmp_path_factory.mktemp("registry"))


@pytest.fixture
def two_models(
    registry: MlflowRegistry, bundle_dir: Path, other_bundle_dir: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> Settings:
    """Champion m1 takes ratings from 4 as choices, challenger m2 from 2."""
    name = request.node.name
    for source, version, min_rating, alias in (
        (bundle_dir, "m1", 4, names.CHAMPION),
        (other_bundle_dir, "m2", 2, names.CHALLENGER),
    ):
        path = with_min_rating(source, tmp_path / version, min_rating)
        registry.register(path, model_name=name, model_version=version, alias=alias)
    return Settings(registry_uri=registry.uri, data_dir=tmp_path / "data", model_name=name, further_models="challenger")


def versions(bundles: Sequence[Bundle]) -> list[str]:
    return [bundle.manifest.model_version for bundle in bundles]


def test_without_a_registry_the_champion_says_it_and_no_model_beside_it(
    registry: MlflowRegistry, two_models: Settings, tmp_path: Path
) -> None:
    """Whichever bundle was opened last: also after a restart, and after a promotion, for which no bundle is opened."""

    def without_registry() -> float | None:
        away = two_models.model_copy(update={"registry_uri": f"sqlite:///{tmp_path / 'away.db'}"})
        rule, bundles = rule_of(away)
        before_the_first_look = rule.current().min_rating
        bundles.poll()
        assert rule.current().min_rating == before_the_first_look
        return before_the_first_look

    rule, bundles = rule_of(two_models)
    bundles.poll()
    assert versions(bundles.current()) == ["m1", "m2"]
    assert (rule.current().min_rating, without_registry()) == (4, 4)
    challenger = registry.aliased(two_models.model_name, names.CHALLENGER)
    registry.move_alias(two_models.model_name, names.CHAMPION, challenger)
    bundles.poll()
    assert (rule.current().min_rating, without_registry()) == (2, 2)


def test_a_champion_that_cannot_be_opened_leaves_the_rule_of_the_one_before(
    registry: MlflowRegistry, two_models: Settings, tmp_path: Path
) -> None:
    bundles = LiveBundles(two_models, on_change=lambda: None, grace_seconds=0.0)
    rule = ServedEventRule(two_models, bundles)
    bundles.poll()
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / MANIFEST).write_text("{}")
    registry.register(
        tmp_path / "broken", model_name=two_models.model_name, model_version="broken", alias=names.CHAMPION
    )
    bundles.poll()
    assert (versions(bundles.current()), versions(bundles.served())) == (["m1", "m2"], ["m1", "m2"])
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
