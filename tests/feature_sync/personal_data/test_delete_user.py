"""A user is erased everywhere, and does not come back."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import redis
import structlog
from mlflow import MlflowClient

from feature_sync.archive.applied_events import AppliedEvents
from feature_sync.archive.day_files import all_files
from feature_sync.commands.cli import main
from feature_sync.core.errors import StoreAway
from feature_sync.operations.dead_letters import replay_dead_letters
from feature_sync.personal_data import delete_user as deletion
from feature_sync.personal_data.delete_user import Account, delete_user
from feature_sync.personal_data.file_places import PreparedFolders
from feature_sync.personal_data.place import Subject
from feature_sync.prepared.prepared import open_prepared
from feature_sync.publish.publish import publish
from feature_sync.publish.rebuild import rebuild
from feature_sync.store.connection import StoreConnection
from tandem.contract.bundle import read_bundle
from tandem.contract.deleted_users import user_sha256
from tandem.contract.errors import BundleCorrupt
from tandem.contract.store import deleted_users_key, item_counters_key, user_state_key, user_vector_key
from tandem.contract.streams import CONSUMER_GROUP, ENTRY_FIELD, EVENTS, applied_key, dead_letters_key, stream_key
from tandem.ops.deleted_users_file import DELETED_USERS_FILE, read_deleted_users
from tests.feature_sync.conftest import ITEM_IDS
from tests.feature_sync.event_rig import drain, running
from tests.feature_sync.personal_data.conftest import NAMESAKE, OTHER, START, USER, RegistryOfUsers, World
from tests.feature_sync.prepared_data import Interaction, write_prepared
from tests.support.waiting import wait_until

pytestmark = pytest.mark.process

FOUND = {
    "online_store": 3,  # the state, and vectors under two versions
    "event_stream": 2,  # one of them pending with a consumer that died
    "impression_stream": 1,
    "dead_letters": 2,  # one of them unreadable
    "dead_impressions": 2,  # likewise
    "applied_log": 2,
    "applied_impressions": 2,
    "archive": 2,
    "impression_archive": 2,
    "attribution": 2,  # an event, and a row of an experiment
    "prepared_data": 4,  # two interactions, the features, a low rating
    "feature_sources": 0,
    "feature_store_online": 0,
    "bundle_folders": 2,
    "model_registry": 4,  # held out, continued by a warm start, shown in the report, quoted as a bad line
    "impression_log": 2,
}


def found_in(account: Account) -> dict[str, int]:
    return {place.place: place.found for place in account.places}


def test_every_place_is_erased_and_only_of_this_user(world: World) -> None:
    others = {user: world.holds(user) for user in (OTHER, NAMESAKE)}
    before = world.holds()
    counters = world.client.hgetall(item_counters_key("item-2"))
    files = [path.name for path in all_files(world.settings.data_dir / EVENTS)]

    account = delete_user(world.settings, USER)

    assert found_in(account) == FOUND
    assert {place.place: place.removed for place in account.places} == FOUND
    assert (account.complete, account.user_sha256) == (True, user_sha256(USER))
    assert len(before) > 15
    assert world.holds() == []
    assert {user: world.holds(user) for user in (OTHER, NAMESAKE)} == others
    assert world.client.hgetall(item_counters_key("item-2")) == counters  # a sum over all users
    assert [path.name for path in all_files(world.settings.data_dir / EVENTS)] == files  # names are the position
    assert world.client.xpending(stream_key(EVENTS), CONSUMER_GROUP)["pending"] == 1  # of another user
    assert any("Kafka" not in entry.what and entry.until for entry in account.remains)


def test_what_is_left_is_valid(world: World) -> None:
    fingerprint = open_prepared(world.prepared).fingerprint
    about = world.prepared / "prepared.json"
    changed_at = about.stat().st_mtime_ns
    delete_user(world.settings, USER)
    for folder in ("bundles/1", "feature_sync/bundles/m1"):
        bundle = read_bundle(world.settings.data_dir / folder)
        assert [user.user_id for user in bundle.held_out_users] == ["held-out-0", OTHER]
    (artifacts,) = Path(world.settings.registry_uri.removeprefix("sqlite:///")).parent.glob("artifacts/*/artifacts")
    assert len(read_bundle(artifacts / "bundle").held_out_users) == 2
    assert pq.read_table(artifacts / "weights/users.parquet").to_pydict() == {
        "user_id": [OTHER, "deleted user of row 1"],  # no row of the weights moves
        "num_learned_events": [1, 2],
    }
    assert (artifacts / "cleaning_report.txt").read_text() == (
        f"interactions: rows.csv\n    line 3: bad_csv: (deleted user)\n    a.csv, line 7: bad_csv: 5,{USER}0,x\n"
    )
    prepared = open_prepared(world.prepared)
    assert (prepared.num_users, prepared.fingerprint != fingerprint) == (2, True)
    assert about.stat().st_mtime_ns == changed_at  # the newest folder stays the newest
    lines = (world.settings.data_dir / "impressions.jsonl.worker-0").read_text().splitlines()
    assert [json.loads(line).get("user_id") for line in lines] == [None, OTHER, NAMESAKE, ""]
    events = AppliedEvents(StoreConnection(world.stream.url), world.settings.data_dir / EVENTS)
    assert sorted(events.user_ids()) == [OTHER, NAMESAKE]


def test_the_user_does_not_come_back_with_a_publish_a_rebuild_or_a_copy(world: World, tmp_path: Path) -> None:
    copy = write_prepared(
        tmp_path / "copy",
        [Interaction(user, ITEM_IDS[0], START) for user in (USER, OTHER)] + [Interaction(NAMESAKE, ITEM_IDS[0])],
        users={USER: {"gender": "F"}},
        low_rated=[(USER, "item-9")],
    )
    delete_user(world.settings, USER)
    world.publish()
    report = publish(world.settings, copy, bundle_dir=world.bundle_dir, force=True)
    assert (report.num_users, report.num_users_deleted) == (3, 1)
    rebuild(world.settings, copy, bundle_dir=world.bundle_dir)
    assert world.holds() == []

    world.client.flushall()
    rebuild(world.settings, copy, bundle_dir=world.bundle_dir)
    assert world.holds() == []
    assert world.client.hexists(deleted_users_key(), user_sha256(USER))  # restored from the folder
    assert world.client.exists(user_state_key(OTHER)) == 1
    assert publish(world.settings, copy, bundle_dir=world.bundle_dir).already_published


def test_events_of_before_are_left_out_wherever_they_come_from(world: World) -> None:
    early = world.event(10)
    delete_user(world.settings, USER)
    world.client.xadd(dead_letters_key(EVENTS), {b"e": early.to_bytes(), b"reason": b"why"})
    assert replay_dead_letters(world.settings, EVENTS)["left_because"] != {}  # the unreadable ones
    rig = world.rig()
    late = world.event(12, occurred_at=early.occurred_at)
    world.stream.append(world.event(11, received_at=early.received_at), late)
    drain(world.stream, rig)
    assert rig.value("tandem_sync_left_out_total") == 2
    assert world.holds() == []


def test_who_comes_back_begins_anew(world: World) -> None:
    delete_user(world.settings, USER)
    drain(world.stream, world.rig())
    world.apply(world.event(20, item_id=ITEM_IDS[7]))
    state = world.stream.state(USER)
    assert (state.event_counts.sum(), len(state.seen_item_keys), dict(state.features)) == (1, 1, {})
    world.archive()
    world.publish()
    rebuild(world.settings, world.prepared, bundle_dir=world.bundle_dir)
    assert world.stream.state(USER).event_counts.sum() == 1
    assert found_in(delete_user(world.settings, USER))["archive"] == 1  # and may go again
    assert world.holds() == []


def test_an_event_that_was_read_before_the_deletion_makes_no_state(world: World) -> None:
    drain(world.stream, world.rig())
    rig = world.rig()
    read, deleted = threading.Event(), threading.Event()
    transaction = rig.store.transaction

    def late_transaction(commands: object) -> object:
        read.set()
        deleted.wait(30)
        return transaction(commands)  # type: ignore[arg-type]

    rig.store.transaction = late_transaction  # type: ignore[method-assign, assignment]
    stranger = "nobody-yet"  # without a state, whose deletion alone would touch no watched key
    with running(rig):
        world.stream.append(world.event(30), world.event(30, stranger))
        assert read.wait(30)
        for user in (USER, stranger):
            delete_user(world.settings, user)
        deleted.set()
        wait_until(lambda: world.stream.num_left == 0, "the events are acknowledged")
        world.stream.append(world.event(31, OTHER))
        wait_until(lambda: world.stream.num_left == 0, "a later event is applied")
    assert (world.holds(), world.holds(stranger)) == ([], [])
    assert rig.value("tandem_sync_conflicts_total") > 0


def test_entries_that_an_archiver_has_read_enter_no_file(world: World) -> None:
    archiver = world.archiver()
    reading, deleted = threading.Event(), threading.Event()
    read = archiver._read

    def slow_read(max_entries: int) -> object:
        entries = list(read(max_entries))
        reading.set()
        deleted.wait(30)
        return iter(entries)

    archiver._read = slow_read  # type: ignore[method-assign, assignment]
    thread = threading.Thread(target=archiver.run)
    thread.start()
    assert reading.wait(30)
    account = delete_user(world.settings, USER)  # beside the archiver, which holds its folder
    deleted.set()
    archiver.stop()
    thread.join(30)
    assert account.complete
    assert world.client.xlen(applied_key(EVENTS)) == 0
    assert world.holds() == []


@pytest.mark.parametrize("stopped_at", [0, 3, 6])
def test_a_deletion_that_was_killed_is_repaired_by_another(
    world: World, monkeypatch: pytest.MonkeyPatch, stopped_at: int
) -> None:
    real, calls = deletion._place_account, []

    class Killed(BaseException):
        pass

    def account(*arguments: object, **options: object) -> object:
        calls.append(1)
        if len(calls) > stopped_at:
            raise Killed
        return real(*arguments, **options)  # type: ignore[arg-type]

    with monkeypatch.context() as patched:
        patched.setattr(deletion, "_place_account", account)
        with pytest.raises(Killed):
            delete_user(world.settings, USER)
    drain(world.stream, world.rig())
    world.publish()
    assert (world.client.exists(user_state_key(USER)) == 0) == (stopped_at > 0)
    assert delete_user(world.settings, USER).complete
    assert world.holds() == []


def test_prepared_data_are_whole_after_a_kill_between_two_files(world: World) -> None:
    before = {path.name: path.read_bytes() for path in world.prepared.iterdir()}
    place = PreparedFolders(world.settings.data_dir / "prepared")
    user = Subject(USER, world.now())
    assert place.erase(user) == 4
    after = {path.name: path.read_bytes() for path in world.prepared.iterdir()}
    # The list was replaced, and one of three files.
    for name in ("users.parquet", "low_rated.parquet"):
        (world.prepared / name).write_bytes(before[name])
        (world.prepared / f".{name}.erased").write_bytes(after[name])
    assert place.erase(user) == 0
    assert {path.name: path.read_bytes() for path in world.prepared.iterdir()} == after
    # The list was not replaced yet: what waits is not taken.
    (world.prepared / ".users.parquet.erased").write_bytes(b"a part")
    assert place.erase(user) == 0
    assert {path.name: path.read_bytes() for path in world.prepared.iterdir()} == after


def test_two_users_may_be_deleted_at_once(world: World) -> None:
    accounts: dict[str, Account] = {}

    def delete(user_id: str) -> None:
        accounts[user_id] = delete_user(world.settings, user_id)

    threads = [threading.Thread(target=delete, args=(user,)) for user in (USER, OTHER, USER)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert all(account.complete for account in accounts.values())
    assert (world.holds(), world.holds(OTHER)) == ([], [])
    assert world.holds(NAMESAKE) != []
    assert len(read_deleted_users(world.settings.data_dir)) == 2
    assert delete_user(world.settings, NAMESAKE).complete  # an id of characters that mean something in patterns
    assert world.holds(NAMESAKE) == []


def test_a_stranger_is_no_error_and_a_dry_run_changes_nothing(world: World) -> None:
    held = world.holds()
    assert found_in(delete_user(world.settings, USER, dry_run=True)) == FOUND
    assert world.holds() == held
    assert not (world.settings.data_dir / DELETED_USERS_FILE).exists()
    for _ in range(2):
        account = delete_user(world.settings, "str*nger[1]")
        assert (account.complete, set(found_in(account).values())) == (True, {0})
    assert world.holds() == held


def test_a_part_that_fails_is_named_and_the_others_are_erased(world: World) -> None:
    broken = all_files(world.settings.data_dir / EVENTS)[1]
    content = broken.read_bytes()
    broken.write_bytes(b"no Parquet")
    damaged = world.settings.data_dir / "bundles" / "1" / "manifest.json"
    manifest = damaged.read_bytes()
    damaged.write_bytes(b"{")
    account = delete_user(world.settings, USER)
    problems = {place.place: place.problem for place in account.places if place.problem}
    assert (account.complete, list(problems)) == (False, ["archive", "bundle_folders"])
    assert found_in(account) == {**FOUND, "bundle_folders": 1}
    assert problems["archive"].startswith(str(broken))
    assert problems["bundle_folders"].startswith(str(damaged.parent))
    assert "\n" not in "".join(problems.values())
    broken.write_bytes(content)
    damaged.write_bytes(manifest)
    assert found_in(delete_user(world.settings, USER))["bundle_folders"] == 1
    assert world.holds() == []


def test_a_version_that_cannot_be_changed_is_named_if_it_holds_the_user(world: World, tmp_path: Path) -> None:
    client = MlflowClient(world.settings.registry_uri, world.settings.registry_uri)
    version = client.get_model_version("tandem", "1")
    elsewhere = Path(shutil.copytree(world.bundle_dir, tmp_path / "exported"))
    added = client.create_model_version("tandem", source=str(elsewhere), run_id=version.run_id)
    try:
        account = delete_user(world.settings, USER)
        (problem,) = [place.problem for place in account.places if place.problem]
        assert problem.startswith(f"version {added.version} holds the user, and its bundle")
        assert found_in(account)["model_registry"] == FOUND["model_registry"]  # of the other version
        held_out = elsewhere / "held_out_users.jsonl"
        lines = held_out.read_text().splitlines(keepends=True)
        held_out.write_text("".join(line for line in lines if USER not in line))
        assert delete_user(world.settings, USER).complete
    finally:
        client.delete_model_version("tandem", added.version)


def test_a_registry_that_was_left_half_changed_is_completed(world: World, registry_of_users: RegistryOfUsers) -> None:
    held_out = registry_of_users.run / "bundle" / "held_out_users.jsonl"
    lines = held_out.read_text().splitlines(keepends=True)
    held_out.write_text("".join(line for line in lines if f'"{USER}"' not in line))
    with pytest.raises(BundleCorrupt):
        read_bundle(held_out.parent)
    assert delete_user(world.settings, USER).complete
    assert len(read_bundle(held_out.parent).held_out_users) == 2


def test_events_may_wait_in_a_store_of_their_own(world: World) -> None:
    settings = world.settings.model_copy(update={"events_url": world.stream.url.removesuffix("0") + "1"})
    with redis.Redis.from_url(settings.events_url, protocol=2) as events:
        for user in (USER, OTHER):
            events.xadd(stream_key(EVENTS), {ENTRY_FIELD: world.event(40, user).to_bytes()})
        assert found_in(delete_user(settings, USER))["event_stream"] == 1
        assert events.xlen(stream_key(EVENTS)) == 1


def test_deletions_of_two_data_folders_rewrite_one_registry_in_turns(world: World, tmp_path: Path) -> None:
    shutil.copytree(world.settings.data_dir, tmp_path / "other")
    other = world.settings.model_copy(update={"data_dir": tmp_path / "other", "impression_log": None})
    with ThreadPoolExecutor() as threads:
        accounts = list(threads.map(delete_user, (world.settings, other), (USER, OTHER)))
    assert [account.complete for account in accounts] == [True, True]
    registry = Path(world.settings.registry_uri.removeprefix("sqlite:///")).parent
    left = {user: [path for path in world.holds(user) if str(registry) in path] for user in (USER, OTHER)}
    assert left == {USER: [], OTHER: []}
    (bundle,) = (registry / "artifacts").glob("*/artifacts/bundle")
    assert {user.user_id for user in read_bundle(bundle).held_out_users}.isdisjoint({USER, OTHER})


def test_without_a_store_or_a_folder_nothing_is_begun(world: World) -> None:
    away = world.settings.model_copy(update={"store_url": "redis://127.0.0.1:1/0"})
    with pytest.raises(StoreAway, match="cannot be reached"):
        delete_user(away, USER)
    assert not (world.settings.data_dir / DELETED_USERS_FILE).exists()
    no_folder = world.settings.model_copy(update={"data_dir": world.prepared / "prepared.json"})
    with pytest.raises(OSError, match=r"prepared\.json"):
        delete_user(no_folder, USER)
    assert world.client.exists(user_state_key(USER), user_vector_key("m1", USER)) == 2


def test_the_commands_print_one_document_and_tell_by_their_status(
    world: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("store_url", "data_dir", "registry_uri", "impression_log"):
        monkeypatch.setenv(f"TANDEM_{name.upper()}", str(getattr(world.settings, name)))
    try:
        assert main(["export-user", USER]) == 0
        exported = json.loads(capsys.readouterr().out)
        assert {place: len(held["records"]) for place, held in exported["places"].items()} == FOUND
        assert exported["places"]["archive"]["records"][0]["item_id"] == "item-0"
        state = exported["places"]["online_store"]["records"][0]["state"]
        assert state["features"] == {"gender": "F"}
        assert "item-0" in state["seen_items"]
        assert main(["delete-user", "--dry-run", USER]) == 0
        assert json.loads(capsys.readouterr().out)["dry_run"]
        assert main(["delete-user", USER]) == 0
        account = json.loads(capsys.readouterr().out)
        assert (account["complete"], USER in json.dumps(account["places"])) == (True, False)
        assert main(["export-user", USER]) == 0
        assert not any(held["records"] for held in json.loads(capsys.readouterr().out)["places"].values())
        (world.settings.data_dir / DELETED_USERS_FILE).write_text("{")
        assert main(["delete-user", USER]) == 1
        (line,) = capsys.readouterr().err.splitlines()
        assert DELETED_USERS_FILE in line
    finally:
        structlog.reset_defaults()


@pytest.mark.parametrize("user_id", ["", "x" * 257])
def test_an_id_that_is_none_is_refused(user_id: str) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["delete-user", user_id])
    assert ended.value.code == 2


def test_the_program_runs_alone(world: World) -> None:
    variables = {
        "TANDEM_STORE_URL": world.settings.store_url,
        "TANDEM_DATA_DIR": str(world.settings.data_dir),
        "TANDEM_REGISTRY_URI": world.settings.registry_uri,
    }
    command = [sys.executable, "-m", "feature_sync", "delete-user", USER]
    others = {name: value for name, value in os.environ.items() if not name.startswith("TANDEM_")}
    ended = subprocess.run(command, env={**others, **variables}, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert json.loads(ended.stdout)["complete"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_files_stay_those_of_the_programs_that_share_the_folder(world: World) -> None:
    folder = world.settings.data_dir
    for path in (folder, *folder.rglob("*")):
        os.chown(path, 12345, 54321)
        path.chmod(0o755 if path.is_dir() else 0o640)
    before = {path: path.stat() for path in folder.rglob("*") if path.is_file()}
    assert delete_user(world.settings, USER).complete
    after = {path: path.stat() for path in folder.rglob("*") if path.is_file()}
    register = after.pop(folder / DELETED_USERS_FILE)
    assert (register.st_uid, register.st_gid, register.st_mode & 0o777) == (12345, 54321, 0o600)
    assert after.keys() == before.keys()
    for path, found in after.items():
        assert (found.st_uid, found.st_gid, found.st_mode & 0o777) == (12345, 54321, 0o640), path
    assert sum(before[path].st_ino != found.st_ino for path, found in after.items()) >= 6
