"""Publishing to a real Valkey with a real ONNX user tower whose answers are known."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import redis
import structlog

from feature_sync.bundles.registry import BUNDLE_CACHE, champion_manifest
from feature_sync.core.errors import RegistryError, StoreError
from feature_sync.core.settings import Settings
from feature_sync.publish.publish import publish
from tandem.contract import names
from tandem.contract.bundle import Bundle, read_bundle
from tandem.contract.event_rule import EventRule
from tandem.contract.store import UserState, UserVector, published_key, user_state_key, user_vector_key
from tandem.contract.vocabulary import id_keys
from tests.feature_sync.conftest import ITEM_IDS
from tests.feature_sync.prepared_data import EVENT_WEIGHTS, Interaction, with_event_weights
from tests.support.serving import MlflowRegistry
from tests.support.tiny_bundle import HISTORY_LENGTH, mean_vector

pytestmark = pytest.mark.process

Prepare = Callable[..., Path]
GENDERS = {"ann": {"gender": "F"}, "bob": {"gender": "M"}}
CHOSEN = {"ann": list(range(HISTORY_LENGTH + 2)), "bob": [7], "cem": [5, 9]}


def interactions(start: int = 1_000_000) -> list[Interaction]:
    return [
        Interaction(user, ITEM_IDS[item], timestamp=start + position)
        for user, items in CHOSEN.items()
        for position, item in enumerate(items)
    ]


def assert_vector(vector: UserVector, bundle: Bundle, items: list[int]) -> None:
    np.testing.assert_allclose(vector.values, mean_vector(bundle, [ITEM_IDS[item] for item in items]), atol=1e-6)


@pytest.fixture
def settings(store_url: str, tmp_path: Path) -> Settings:
    return Settings(store_url=store_url, data_dir=tmp_path / "data", store_retry_seconds=5)


@pytest.fixture
def client(store_url: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(store_url) as client:
        yield client


def state_of(client: redis.Redis, user_id: str) -> UserState:
    return UserState.from_bytes(client.get(user_state_key(user_id)))


def vector_of(client: redis.Redis, user_id: str, model_version: str = "m1") -> UserVector:
    return UserVector.from_bytes(client.get(user_vector_key(model_version, user_id)))


def dump(client: redis.Redis) -> dict[bytes, bytes]:
    return {key: client.get(key) for key in client.scan_iter()}


class TestFirstPublish:
    def test_writes_every_state_and_vector(
        self, prepare: Prepare, bundle: Bundle, settings: Settings, client: redis.Redis
    ) -> None:
        report = publish(settings, prepare(interactions(), users=GENDERS), bundle_dir=bundle.directory)
        assert (report.num_users, report.num_states_written, report.num_vectors_written) == (3, 3, 3)
        assert not report.already_published
        for user, items in CHOSEN.items():
            state = state_of(client, user)
            assert state.revision == 1
            assert state.event_item_keys.tolist() == id_keys(ITEM_IDS[item] for item in items).tolist()
            vector = vector_of(client, user)
            assert vector.state_revision == 1
            assert_vector(vector, bundle, items)
        assert client.get(published_key("m1")) == report.fingerprint.encode()
        assert client.dbsize() == 8

    def test_several_batches(self, prepare: Prepare, bundle: Bundle, settings: Settings, client: redis.Redis) -> None:
        data = [Interaction(f"u{user:05}", ITEM_IDS[user % 20], timestamp=1) for user in range(1_300)]
        report = publish(settings, prepare(data, row_group_size=333), bundle_dir=bundle.directory)
        assert report.num_vectors_written == 1_300
        assert_vector(vector_of(client, "u01299"), bundle, [1299 % 20])

    def test_what_was_rated_low_is_seen_and_moves_no_vector(
        self, prepare: Prepare, bundle: Bundle, settings: Settings, client: redis.Redis
    ) -> None:
        low = [("ann", ITEM_IDS[19]), ("abe", ITEM_IDS[3]), ("abe", ITEM_IDS[4]), ("zoe", ITEM_IDS[5])]
        report = publish(settings, prepare(interactions(), users=GENDERS, low_rated=low), bundle_dir=bundle.directory)
        assert report.num_states_written == 5
        ann = state_of(client, "ann")
        assert len(ann.event_item_keys) == len(CHOSEN["ann"])
        chosen = [ITEM_IDS[item] for item in CHOSEN["ann"]]
        assert set(ann.seen_item_keys.tolist()) == set(id_keys([*chosen, ITEM_IDS[19]]).tolist())
        assert_vector(vector_of(client, "ann"), bundle, CHOSEN["ann"])
        for user, items in {"abe": (3, 4), "zoe": (5,)}.items():
            state = state_of(client, user)
            assert len(state.event_item_keys) == 0
            assert set(state.seen_item_keys.tolist()) == set(id_keys([ITEM_IDS[item] for item in items]).tolist())
            assert client.get(user_vector_key("m1", user)) is None

    def test_no_users(self, prepare: Prepare, bundle: Bundle, settings: Settings, client: redis.Redis) -> None:
        assert publish(settings, prepare([]), bundle_dir=bundle.directory).num_users == 0
        assert client.dbsize() == 2

    def test_vectors_expire_and_states_do_not(
        self, prepare: Prepare, bundle: Bundle, settings: Settings, client: redis.Redis
    ) -> None:
        publish(settings, prepare(interactions()), bundle_dir=bundle.directory)
        assert 14 * 24 * 3600 - 60 < client.ttl(user_vector_key("m1", "ann")) <= 14 * 24 * 3600
        assert client.ttl(user_state_key("ann")) == -1

    def test_without_a_time_to_live_vectors_stay(
        self, prepare: Prepare, bundle: Bundle, settings: Settings, client: redis.Redis
    ) -> None:
        data = prepare(interactions())
        publish(settings, data, bundle_dir=bundle.directory)
        forever = settings.model_copy(update={"vector_ttl_seconds": 0})
        publish(forever, data, bundle_dir=bundle.directory, force=True)
        assert client.ttl(user_vector_key("m1", "ann")) == -1
        assert client.ttl(published_key("m1")) == -1
        assert publish(forever, data, bundle_dir=bundle.directory).already_published


class TestAgain:
    def test_returns_at_once(self, prepare: Prepare, bundle: Bundle, settings: Settings, client: redis.Redis) -> None:
        data = prepare(interactions())
        first = publish(settings, data, bundle_dir=bundle.directory)
        before = dump(client)
        again = publish(settings, data, bundle_dir=bundle.directory)
        assert again == dataclasses.replace(
            first, already_published=True, num_users=0, num_states_written=0, num_vectors_written=0
        )
        assert dump(client) == before

    def test_forced_finds_nothing_to_write(
        self, prepare: Prepare, bundle: Bundle, settings: Settings, client: redis.Redis
    ) -> None:
        data = prepare(interactions(), users=GENDERS)
        publish(settings, data, bundle_dir=bundle.directory)
        before = dump(client)
        again = publish(settings, data, bundle_dir=bundle.directory, force=True)
        assert (again.num_users, again.num_states_written, again.num_vectors_written) == (3, 0, 0)
        assert dump(client) == before

    def test_an_emptied_store_is_refilled_although_the_mark_is_there(
        self, prepare: Prepare, bundle: Bundle, settings: Settings, client: redis.Redis
    ) -> None:
        data = prepare(interactions())
        publish(settings, data, bundle_dir=bundle.directory)
        before = dump(client)
        for key in before:
            if key != published_key("m1"):
                client.delete(key)
        assert publish(settings, data, bundle_dir=bundle.directory).num_vectors_written == 3
        assert dump(client) == before

    def test_a_lost_vector_is_written_again(
        self, prepare: Prepare, bundle: Bundle, settings: Settings, client: redis.Redis
    ) -> None:
        data = prepare(interactions())
        publish(settings, data, bundle_dir=bundle.directory)
        client.delete(user_vector_key("m1", "bob"))
        report = publish(settings, data, bundle_dir=bundle.directory)
        assert (report.num_states_written, report.num_vectors_written) == (0, 1)

    def test_a_publish_late_in_the_life_of_the_vectors_renews_them(
        self, prepare: Prepare, bundle: Bundle, settings: Settings, client: redis.Redis
    ) -> None:
        data = prepare(interactions())
        publish(settings, data, bundle_dir=bundle.directory)
        for key in (published_key("m1"), user_vector_key("m1", "ann")):
            client.expire(key, 3600)
        report = publish(settings, data, bundle_dir=bundle.directory)
        assert not report.already_published
        assert report.num_vectors_written == 0
        assert client.ttl(user_vector_key("m1", "ann")) > 3600

    def test_another_version_gets_vectors_of_its_own(
        self, prepare: Prepare, bundle: Bundle, other_bundle_dir: Path, settings: Settings, client: redis.Redis
    ) -> None:
        data = prepare(interactions())
        publish(settings, data, bundle_dir=bundle.directory)
        report = publish(settings, data, bundle_dir=other_bundle_dir)
        assert (report.num_states_written, report.num_vectors_written) == (0, 3)
        assert client.exists(user_vector_key("m1", "ann"), user_vector_key("m2", "ann")) == 2


class TestRevisions:
    def test_changed_data_raise_the_revision_of_changed_users_alone(
        self, prepare: Prepare, bundle: Bundle, settings: Settings, client: redis.Redis
    ) -> None:
        publish(settings, prepare(interactions()), bundle_dir=bundle.directory)
        newer = [*interactions(), Interaction("bob", ITEM_IDS[8], timestamp=2_000_000)]
        report = publish(settings, prepare(newer), bundle_dir=bundle.directory)
        assert (report.num_states_written, report.num_vectors_written) == (1, 1)
        assert [state_of(client, user).revision for user in CHOSEN] == [1, 2, 1]
        assert vector_of(client, "bob").state_revision == 2
        assert_vector(vector_of(client, "bob"), bundle, [7, 8])

    def test_a_changed_feature_is_a_change(
        self, prepare: Prepare, bundle: Bundle, settings: Settings, client: redis.Redis
    ) -> None:
        publish(settings, prepare(interactions()), bundle_dir=bundle.directory)
        publish(settings, prepare(interactions(), users=GENDERS), bundle_dir=bundle.directory)
        assert [state_of(client, user).revision for user in CHOSEN] == [2, 2, 1]

    def test_a_click_that_arrived_since_is_kept_and_gets_its_vector(
        self, prepare: Prepare, bundle: Bundle, settings: Settings, client: redis.Redis
    ) -> None:
        data = prepare(interactions())
        publish(settings, data, bundle_dir=bundle.directory)
        old = state_of(client, "bob")
        clicked = old.with_events(id_keys([ITEM_IDS[11]]), np.array([2], np.uint8), np.array([9_000_000]))
        client.set(user_state_key("bob"), clicked.to_bytes())
        report = publish(settings, data, bundle_dir=bundle.directory, force=True)
        assert (report.num_states_newer_in_store, report.num_states_written, report.num_vectors_written) == (1, 0, 1)
        assert client.get(user_state_key("bob")) == clicked.to_bytes()
        assert vector_of(client, "bob").state_revision == 2
        assert_vector(vector_of(client, "bob"), bundle, [7, 11])

    def test_an_event_before_the_first_publish_joins_the_history(
        self, prepare: Prepare, bundle: Bundle, settings: Settings, client: redis.Redis
    ) -> None:
        clicked = UserState().with_events(id_keys([ITEM_IDS[11]]), np.array([2], np.uint8), np.array([9_000_000]))
        client.set(user_state_key("bob"), clicked.to_bytes())
        data = prepare(interactions(), users=GENDERS)
        report = publish(settings, data, bundle_dir=bundle.directory)
        assert (report.num_states_newer_in_store, report.num_states_written) == (1, 3)
        state = state_of(client, "bob")
        assert (state.revision, state.features) == (2, {"gender": "M"})
        assert state.event_item_keys.tolist() == id_keys([ITEM_IDS[7], ITEM_IDS[11]]).tolist()
        assert state.seen_item_keys.tolist() == sorted(state.event_item_keys.tolist())
        assert dict(zip(names.EVENT_TYPES, state.event_counts.tolist(), strict=True))["click"] == 1
        assert_vector(vector_of(client, "bob"), bundle, [7, 11])
        again = publish(settings, data, bundle_dir=bundle.directory, force=True)
        assert (again.num_states_written, again.num_vectors_written) == (0, 0)

    def test_a_purchase_that_arrived_since_takes_the_place_of_what_the_file_has(
        self, prepare: Prepare, bundle: Bundle, settings: Settings, client: redis.Redis, tmp_path: Path
    ) -> None:
        """By the rule of the bundle; a repetition is counted, and neither is lost with the next publish."""
        data, weighing = prepare(interactions()), with_event_weights(bundle.directory, tmp_path / "weighing")
        publish(settings, data, bundle_dir=weighing)
        codes = np.array([names.EVENT_CODES[name] for name in ("purchase", "click")], np.uint8)
        strengths = EventRule(event_weights=EVENT_WEIGHTS).strengths
        bought = state_of(client, "cem").with_events(
            id_keys([ITEM_IDS[5], ITEM_IDS[9]]), codes, np.array([9_000_000, 9_500_000]), strengths=strengths
        )
        client.set(user_state_key("cem"), bought.to_bytes())
        assert bought.event_item_keys.tolist() == id_keys([ITEM_IDS[9], ITEM_IDS[5]]).tolist()
        report = publish(settings, data, bundle_dir=weighing, force=True)
        assert (report.num_states_newer_in_store, report.num_states_written, report.num_vectors_written) == (1, 0, 1)
        assert client.get(user_state_key("cem")) == bought.to_bytes()
        assert [row["counts"].tolist() for row in state_of(client, "cem").merged] == [
            [0, 1, 0, 0, 1, 0],
            [0, 0, 0, 1, 1, 0],
        ]

    def test_a_low_rating_that_arrived_since_stays_seen(
        self, prepare: Prepare, bundle: Bundle, settings: Settings, client: redis.Redis
    ) -> None:
        directory = prepare(interactions(), users=GENDERS)
        publish(settings, directory, bundle_dir=bundle.directory)
        before, key = state_of(client, "bob"), id_keys([ITEM_IDS[11]])
        low = before.with_events(key, np.array([6], np.uint8), np.array([9_000_000]), low_rated=np.ones(1, np.bool_))
        client.set(user_state_key("bob"), low.to_bytes())
        report = publish(settings, directory, bundle_dir=bundle.directory, force=True)
        assert (report.num_states_written, report.num_vectors_written) == (0, 1)
        assert state_of(client, "bob").to_bytes() == low.to_bytes()
        assert_vector(vector_of(client, "bob"), bundle, CHOSEN["bob"])

    def test_counts_that_the_file_does_not_know_are_kept(
        self, prepare: Prepare, bundle: Bundle, settings: Settings, client: redis.Redis
    ) -> None:
        data = prepare(interactions())
        publish(settings, data, bundle_dir=bundle.directory)
        shown = state_of(client, "bob").with_events(
            id_keys([ITEM_IDS[11]]), np.array([1], np.uint8), np.array([9_000_000])
        )
        client.set(user_state_key("bob"), shown.to_bytes())
        publish(settings, data, bundle_dir=bundle.directory, force=True)
        assert client.get(user_state_key("bob")) == shown.to_bytes()

    def test_data_without_times_win_over_the_store(
        self, prepare: Prepare, bundle: Bundle, settings: Settings, client: redis.Redis
    ) -> None:
        publish(settings, prepare(interactions()), bundle_dir=bundle.directory)
        timeless = [Interaction("bob", ITEM_IDS[3])]
        publish(settings, prepare(timeless), bundle_dir=bundle.directory)
        assert state_of(client, "bob").revision == 2
        assert state_of(client, "bob").event_item_keys.tolist() == id_keys([ITEM_IDS[3]]).tolist()

    def test_a_vector_that_outlived_its_state_is_not_trusted(
        self, prepare: Prepare, bundle: Bundle, settings: Settings, client: redis.Redis
    ) -> None:
        client.set(user_vector_key("m1", "ann"), UserVector(1, np.full(16, 99, np.float32)).to_bytes())
        publish(settings, prepare(interactions()), bundle_dir=bundle.directory)
        assert_vector(vector_of(client, "ann"), bundle, CHOSEN["ann"])

    @pytest.mark.parametrize("garbage", [b"", b"\x07unreadable", b"\x01"])
    def test_unreadable_values_are_replaced(
        self, prepare: Prepare, bundle: Bundle, settings: Settings, client: redis.Redis, garbage: bytes
    ) -> None:
        data = prepare(interactions())
        publish(settings, data, bundle_dir=bundle.directory)
        before = dump(client)
        client.set(user_state_key("ann"), garbage)
        client.set(user_vector_key("m1", "bob"), garbage)
        publish(settings, data, bundle_dir=bundle.directory, force=True)
        assert dump(client) == before


@pytest.mark.filterwarnings(
    "ignore:The ``noload`` loader strategy"
)  # MLflow uses an option that SQLAlchemy 2.1 deprecates
class TestRegistry:
    def test_the_champion_is_downloaded_once(
        self, prepare: Prepare, registry_uri: str, bundle: Bundle, settings: Settings, client: redis.Redis
    ) -> None:
        settings = settings.model_copy(update={"registry_uri": registry_uri})
        data = prepare(interactions())
        cache = settings.data_dir / "feature_sync" / "bundles"
        for age in range(5):
            (cache / f"old-{age}").mkdir(parents=True)
            os.utime(cache / f"old-{age}", (1_000_000 - age, 1_000_000 - age))
        (cache / ".download-under-way").mkdir()
        (cache / ".download-killed").mkdir()
        os.utime(cache / ".download-killed", (1_000_000, 1_000_000))
        report = publish(settings, data)
        assert (report.model_version, report.registry_version) == ("m1", "1")
        assert {path.name for path in cache.iterdir()} == {
            "m1",
            "old-0",
            "old-1",
            "old-2",
            ".download-under-way",
        }
        assert_vector(vector_of(client, "bob"), bundle, [7])
        downloaded = (cache / "m1").stat().st_ino
        publish(settings, data, force=True)
        assert (cache / "m1").stat().st_ino == downloaded

    def test_further_models_get_vectors_of_their_own(  # noqa: PLR0917 - fixtures, given by name
        self,
        prepare: Prepare,
        bundle: Bundle,
        other_bundle_dir: Path,
        settings: Settings,
        client: redis.Redis,
        tmp_path: Path,
    ) -> None:
        registry = MlflowRegistry(tmp_path / "registry")
        name = settings.model_name
        registry.register(bundle.directory, model_name=name, model_version="m1", alias=names.CHAMPION)
        number = registry.register(other_bundle_dir, model_name=name, model_version="m2", alias=names.CHALLENGER)
        settings = settings.model_copy(
            update={"registry_uri": registry.uri, "further_models": f"absent,champion,challenger,{number}"}
        )
        data = prepare(interactions())
        with structlog.testing.capture_logs() as logs:
            report = publish(settings, data)
        assert (report.model_version, report.num_states_written, report.num_vectors_written) == ("m1", 3, 3)
        (further,) = report.further
        assert (further.model_version, further.registry_version) == ("m2", number)
        assert (further.num_states_written, further.num_vectors_written) == (0, 3)
        other = read_bundle(other_bundle_dir)
        for user, items in CHOSEN.items():
            assert_vector(vector_of(client, user), bundle, items)
            assert_vector(vector_of(client, user, "m2"), other, items)
            assert state_of(client, user).revision == vector_of(client, user, "m2").state_revision == 1
        left_out = [line for line in logs if line["event"] == "further_model_not_published"]
        assert [line["alias"] for line in left_out] == ["absent"]
        cache = settings.data_dir / BUNDLE_CACHE
        assert (cache / "m1").stat().st_mtime_ns < (cache / "m2").stat().st_mtime_ns, "m1 was opened once"
        champion = champion_manifest(cache)
        assert champion is not None
        assert champion.model_version == "m1"
        again = publish(settings, data)
        assert again.already_published
        assert [done.already_published for done in again.further] == [True]

    def test_a_store_that_does_not_say_what_servers_named_stops_nothing(
        self, prepare: Prepare, bundle: Bundle, settings: Settings, client: redis.Redis, tmp_path: Path
    ) -> None:
        """Users of a store may be allowed the commands of an earlier release alone."""
        registry = MlflowRegistry(tmp_path / "registry")
        registry.register(bundle.directory, model_name=settings.model_name, model_version="m1", alias=names.CHAMPION)
        client.acl_setuser(
            "limited", enabled=True, nopass=True, commands=["+@all", "-zrevrangebyscore"], keys=["*"], channels=["*"]
        )
        url = settings.store_url.replace("redis://", "redis://limited:any@")
        changes = {"registry_uri": registry.uri, "store_url": url, "further_models": "absent"}
        try:
            with structlog.testing.capture_logs() as logs:
                report = publish(settings.model_copy(update=changes), prepare(interactions()))
        finally:
            client.acl_deluser("limited")
        assert (report.model_version, report.num_vectors_written) == ("m1", 3)
        warned = [(line["event"], line.get("alias")) for line in logs if line["log_level"] == "warning"]
        assert warned == [("models_of_servers_unknown", None), ("further_model_not_published", "absent")]

    def test_no_registry(self, prepare: Prepare, settings: Settings, tmp_path: Path) -> None:
        uri = f"sqlite:///{tmp_path}/nowhere.db"
        with pytest.raises(RegistryError, match=r"there is no registry at .*train a model first"):
            publish(settings.model_copy(update={"registry_uri": uri}), prepare(interactions()))
        assert not (tmp_path / "nowhere.db").exists()

    @pytest.mark.parametrize("change", [{"model_alias": "challenger"}, {"model_name": "other"}])
    def test_nothing_under_the_alias(
        self, prepare: Prepare, registry_uri: str, settings: Settings, change: dict[str, str]
    ) -> None:
        settings = settings.model_copy(update={"registry_uri": registry_uri, **change})
        with pytest.raises(RegistryError, match=r"has the alias.*train a model first"):
            publish(settings, prepare(interactions()))


class TestStore:
    def test_unreachable(self, prepare: Prepare, bundle: Bundle, settings: Settings) -> None:
        settings = settings.model_copy(update={"store_url": "redis://:secret@127.0.0.1:1/0"})
        with pytest.raises(StoreError, match=r"redis://127\.0\.0\.1:1/0 cannot be reached") as failure:
            publish(settings, prepare(interactions()), bundle_dir=bundle.directory)
        assert "secret" not in str(failure.value)
