"""The commands of feature_sync as real processes: killed, disconnected, misconfigured."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import redis

from deploy.local.ports import free_port
from feature_sync.core.settings import Settings
from feature_sync.publish.publish import publish
from tandem.contract.store import UserState, UserVector, published_key, user_state_key, user_vector_key
from tests.feature_sync.conftest import ITEM_IDS, read_json_lines
from tests.feature_sync.prepared_data import Interaction
from tests.support.waiting import wait_until

pytestmark = pytest.mark.process

Prepare = Callable[..., Path]
NUM_USERS = 20_000


def answers(client: redis.Redis) -> bool:
    try:
        return bool(client.ping())
    except redis.RedisError:
        return False


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "feature_sync", *arguments]


def environment(tmp_path: Path, **variables: str) -> dict[str, str]:
    return {**os.environ, "TANDEM_DATA_DIR": str(tmp_path / "data"), **variables}


def run(arguments: list[str], variables: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(*arguments), env=variables, capture_output=True, text=True, timeout=120, check=False)


@contextmanager
def started(arguments: list[str], variables: dict[str, str]) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        command(*arguments), env=variables, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, umask=0o022
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate(timeout=30)


@contextmanager
def running_store(variables: dict[str, str]) -> Iterator[tuple[subprocess.Popen[str], redis.Redis]]:
    with (
        started(["store"], variables) as process,
        redis.Redis.from_url(variables["TANDEM_STORE_URL"]) as client,
    ):
        wait_until(lambda: answers(client), "the store answers")
        yield process, client


@pytest.fixture
def many_users(prepare: Prepare) -> Path:
    return prepare(
        [
            Interaction(f"u{user:06}", ITEM_IDS[(user + number) % 20], timestamp=1 + number)
            for user in range(NUM_USERS)
            for number in range(3)
        ]
    )


def assert_complete(client: redis.Redis) -> None:
    assert client.dbsize() == 2 * NUM_USERS + 2  # two marks: of the version, and of the store
    for start in range(0, NUM_USERS, 1_000):
        users = [f"u{user:06}" for user in range(start, start + 1_000)]
        states = client.mget([user_state_key(user) for user in users])
        vectors = client.mget([user_vector_key("m1", user) for user in users])
        for state, vector in zip(states, vectors, strict=True):
            assert UserState.from_bytes(state).revision == UserVector.from_bytes(vector).state_revision == 1


class TestPublish:
    def test_killed_in_the_middle_and_run_again(
        self, tmp_path: Path, many_users: Path, bundle_dir: Path, store_url: str
    ) -> None:
        variables = environment(tmp_path, TANDEM_STORE_URL=store_url)
        arguments = ["publish", "--prepared", str(many_users), "--bundle", str(bundle_dir)]
        with redis.Redis.from_url(store_url) as client:
            with started(arguments, variables) as process:
                wait_until(lambda: client.dbsize() > 4 * 512, "some batches are written")
                client.execute_command(
                    "CLIENT", "PAUSE", "60000", "WRITE"
                )  # so that the publish cannot end before the kill
                process.kill()
                assert process.wait(timeout=30) == -signal.SIGKILL
                client.execute_command("CLIENT", "UNPAUSE")
            written = client.dbsize()
            assert written < 2 * NUM_USERS
            assert client.get(published_key("m1")) is None

            again = run(arguments, variables)
            assert again.returncode == 0, again.stderr
            report = json.loads(again.stdout)
            assert report["num_users"] == NUM_USERS
            assert 0 < report["num_states_written"] == report["num_vectors_written"] < NUM_USERS
            assert_complete(client)

            third = run(arguments, variables)
            assert json.loads(third.stdout)["already_published"] is True
            assert [line["event"] for line in read_json_lines(third.stderr)] == ["already_published"]

    def test_the_store_dies_in_the_middle_and_returns(self, tmp_path: Path, many_users: Path, bundle_dir: Path) -> None:
        variables = environment(tmp_path, TANDEM_STORE_URL=f"redis://127.0.0.1:{free_port()}/0")
        arguments = ["publish", "--prepared", str(many_users), "--bundle", str(bundle_dir)]
        with running_store(variables) as (store, client):
            publisher = subprocess.Popen(
                command(*arguments), env=variables, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
            )
            try:
                wait_until(lambda: client.dbsize() > 4 * 512, "some batches are written")
                client.execute_command("CLIENT", "PAUSE", "60000", "WRITE")
                store.kill()
                store.wait(timeout=30)
                with running_store(variables) as (_, client_again):
                    output, errors = publisher.communicate(timeout=120)
                    assert publisher.returncode == 0, errors
                    assert json.loads(output)["num_users"] == NUM_USERS
                    assert "store_retry" in {line["event"] for line in read_json_lines(errors)}
                    assert_complete(client_again)
            finally:
                publisher.kill()
                publisher.communicate(timeout=30)

    def test_the_store_dies_in_the_middle_and_stays_away(
        self, tmp_path: Path, many_users: Path, bundle_dir: Path
    ) -> None:
        variables = environment(
            tmp_path, TANDEM_STORE_URL=f"redis://127.0.0.1:{free_port()}/0", TANDEM_STORE_RETRY_SECONDS="0.5"
        )
        arguments = ["publish", "--prepared", str(many_users), "--bundle", str(bundle_dir)]
        with running_store(variables) as (store, client), started(arguments, variables) as publisher:
            wait_until(lambda: client.dbsize() > 4 * 512, "some batches are written")
            client.execute_command("CLIENT", "PAUSE", "60000", "WRITE")
            store.kill()
            _, errors = publisher.communicate(timeout=60)
        assert publisher.returncode == 1
        assert "did not return within 0.5 s" in errors.splitlines()[-1]
        assert "Traceback" not in errors

    def test_store_unreachable(self, tmp_path: Path, prepare: Prepare, bundle_dir: Path) -> None:
        variables = environment(tmp_path, TANDEM_STORE_URL="redis://127.0.0.1:1/0")
        data = prepare([Interaction("u", "i")])
        done = run(["publish", "--prepared", str(data), "--bundle", str(bundle_dir)], variables)
        assert done.returncode == 1
        assert len(done.stderr.splitlines()) == 1
        assert done.stderr.startswith("feature_sync: the online store redis://127.0.0.1:1/0 cannot be reached")

    def test_a_broken_bundle(self, tmp_path: Path, prepare: Prepare, store_url: str) -> None:
        variables = environment(tmp_path, TANDEM_STORE_URL=store_url)
        data = prepare([Interaction("u", "i")])
        done = run(["publish", "--prepared", str(data), "--bundle", str(tmp_path)], variables)
        assert done.returncode == 1
        assert done.stderr.startswith("feature_sync: manifest.json is unreadable")


class TestSettings:
    @pytest.mark.parametrize(
        ("variable", "value"),
        [
            ("TANDEM_STORE_URL", "http://localhost"),
            ("TANDEM_VECTOR_TTL_SECONDS", "-1"),
            ("TANDEM_LOG_LEVEL", "loud"),
            ("TANDEM_REGISTRY_URI", "sqlite:///relative.db"),
        ],
    )
    def test_a_wrong_one_is_named_in_one_line(self, tmp_path: Path, variable: str, value: str) -> None:
        done = run(["show", "196"], environment(tmp_path, **{variable: value}))
        assert done.returncode == 2
        assert len(done.stderr.splitlines()) == 1
        assert done.stderr.startswith(f"feature_sync: {variable}: ")

    def test_every_one_is_documented(self) -> None:
        shown = run(["--help"], dict(os.environ)).stdout
        for name, field in Settings.model_fields.items():
            assert f"TANDEM_{name.upper()} (default: " in shown
            assert field.description
            assert " ".join(field.description.split()) in shown


class TestStore:
    def test_data_survive_a_stop_and_a_kill(self, tmp_path: Path) -> None:
        folder = tmp_path / "with a space"
        variables = {
            **environment(folder, TANDEM_STORE_URL=f"redis://127.0.0.1:{free_port()}/0"),
        }
        for number, ending in enumerate([signal.SIGTERM, signal.SIGINT, signal.SIGKILL]):
            with running_store(variables) as (process, client):
                assert client.dbsize() == number
                client.set(f"key-{number}", number)
                process.send_signal(ending)
                expected = -signal.SIGKILL if ending == signal.SIGKILL else 0
                assert process.wait(timeout=30) == expected
        with running_store(variables) as (_, client):
            assert client.mget("key-0", "key-1", "key-2") == [b"0", b"1", b"2"]
            client.save()
        stored = [folder / "data", *(folder / "data").rglob("*")]
        assert {"valkey", "dump.rdb"} <= {path.name for path in stored}
        for path in stored:
            assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path

    def test_a_taken_port_is_an_error(self, tmp_path: Path, store_url: str) -> None:
        done = run(["store"], environment(tmp_path, TANDEM_STORE_URL=store_url))
        assert done.returncode == 1
        assert "something already listens on" in done.stderr

    def test_two_stores_never_share_a_folder(self, tmp_path: Path) -> None:
        with running_store(environment(tmp_path, TANDEM_STORE_URL=f"redis://127.0.0.1:{free_port()}/0")):
            second = environment(tmp_path, TANDEM_STORE_URL=f"redis://127.0.0.1:{free_port()}/0")
            done = run(["store"], second)
        assert done.returncode == 1
        assert "another embedded store uses" in done.stderr

    @pytest.mark.parametrize("url", ["redis://store.example:6379/0", "rediss://127.0.0.1/0", "redis://:pw@127.0.0.1/0"])
    def test_another_machines_store_is_not_started_here(self, tmp_path: Path, url: str) -> None:
        done = run(["store"], environment(tmp_path, TANDEM_STORE_URL=url))
        assert done.returncode == 1
        assert "the embedded store listens on" in done.stderr
        assert "pw" not in done.stderr


class TestShow:
    @pytest.fixture
    def variables(self, tmp_path: Path, prepare: Prepare, bundle_dir: Path, store_url: str) -> dict[str, str]:
        data = prepare(
            [
                Interaction("ann", "item-3", timestamp=1_000_000),
                Interaction("ann", "not in the bundle", timestamp=2_000_000, event_type="click"),
            ],
            users={"ann": {"gender": "F"}},
        )
        publish(Settings(store_url=store_url), data, bundle_dir=bundle_dir)
        return environment(tmp_path, TANDEM_STORE_URL=store_url, TANDEM_REGISTRY_URI=f"sqlite:///{tmp_path}/nowhere.db")

    def test_with_the_bundle(self, variables: dict[str, str], bundle_dir: Path) -> None:
        shown = json.loads(run(["show", "ann", "--bundle", str(bundle_dir)], variables).stdout)
        assert shown["model_version"] == "m1"
        state = shown["state"]
        assert (state["revision"], state["features"], state["num_seen_items"]) == (1, {"gender": "F"}, 2)
        newest, oldest = state["recent_events_newest_first"]
        assert oldest == {"item": "item-3", "type": "rating", "time": "1970-01-01T00:00:01+00:00"}
        assert (newest["type"], len(newest["item"])) == ("click", 16)
        vector = shown["vector"]
        assert (vector["dimension"], vector["is_current"], vector["state_revision"]) == (16, True, 1)
        assert 0 < vector["expires_in_seconds"] <= 14 * 24 * 3600

    def test_with_the_champion(self, variables: dict[str, str], registry_uri: str) -> None:
        shown = json.loads(run(["show", "ann"], {**variables, "TANDEM_REGISTRY_URI": registry_uri}).stdout)
        assert shown["state"]["recent_events_newest_first"][1]["item"] == "item-3"

    def test_without_a_registry_items_are_keys(self, variables: dict[str, str]) -> None:
        done = run(["show", "ann"], variables)
        assert done.returncode == 0
        shown = json.loads(done.stdout)
        assert shown["model_version"] is None
        assert shown["vector"] is None
        assert all(len(event["item"]) == 16 for event in shown["state"]["recent_events_newest_first"])
        assert "no_bundle" in done.stderr

    def test_an_unknown_user(self, variables: dict[str, str], bundle_dir: Path) -> None:
        shown = json.loads(run(["show", "nobody", "--bundle", str(bundle_dir)], variables).stdout)
        assert shown == {"user_id": "nobody", "model_version": "m1", "state": None, "vector": None}
