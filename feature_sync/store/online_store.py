"""The online store for publishing: reads a batch of users, lets the caller decide, and writes the batch, all or
nothing.

A batch is one optimistic transaction: its state keys are watched, read with one MGET, and written in one MULTI/EXEC
with its vectors. So the store never holds a state with a vector of another revision, even after a kill, and an event
that another writer adds meanwhile is not lost: the batch is read and decided again. The register of deleted users is
watched and read too: no user is written who is deleted meanwhile.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final, Self, TypeVar

import redis
import structlog
from redis.backoff import NoBackoff
from redis.retry import Retry

from feature_sync.core.errors import StoreConflict, StoreError
from feature_sync.store.connection import StoreConnection, unreachable
from feature_sync.store.deleted_users import deletions_among, register_fields
from tandem.contract.store import (
    UserState,
    UserVector,
    deleted_users_key,
    populated_key,
    published_key,
    user_state_key,
    user_vector_key,
)

_TIMEOUT_SECONDS: Final = 5.0
_FIRST_PAUSE_SECONDS: Final = 0.1
_LONGEST_PAUSE_SECONDS: Final = 2.0
_MAX_CONFLICTS: Final = 3
_MAX_CONFLICTS_OF_ONE: Final = 100

_T = TypeVar("_T")
_log = structlog.get_logger(__name__)


@dataclass(frozen=True, kw_only=True)
class StoredUser:
    """The stored values of one user, undecoded; None for a missing value."""

    state: bytes | None
    vector: bytes | None
    deleted_at: int | None = None
    """When the user was deleted, microseconds since 1970; None: never."""


@dataclass(frozen=True, kw_only=True)
class UserWrite:
    """The values to write for one user; None leaves the stored value as it is."""

    state: UserState | None
    vector: UserVector | None


Decide = Callable[[Sequence[StoredUser]], Sequence[UserWrite]]
"""Decides what to write for each user of a batch. Called again if the batch has changed meanwhile: it must have no side
effects."""


class OnlineStore:
    """A connection to the store. Every method raises StoreError if the store does not answer for too long."""

    def __init__(self, url: str, *, retry_seconds: float, vector_ttl_seconds: int) -> None:
        """Connects without retrying: a store that does not answer at the start is a mistake, not a fail-over."""
        self._url = url
        self._retry_seconds = retry_seconds
        self._vector_ttl_seconds = vector_ttl_seconds
        # The client itself does not retry: a transaction must be restarted, not continued.
        self._client = redis.Redis.from_url(
            url,
            socket_timeout=_TIMEOUT_SECONDS,
            socket_connect_timeout=_TIMEOUT_SECONDS,
            retry=Retry(NoBackoff(), 0),
        )
        with StoreConnection(url) as first:
            first.call("PING")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._client.close()

    def read_user(self, user_id: str, model_version: str) -> StoredUser:
        """The stored values of one user."""
        keys = [user_state_key(user_id), user_vector_key(model_version, user_id)]
        state, vector = self._persist(lambda: _now(self._client.mget(keys)))
        return StoredUser(state=state, vector=vector)

    def update_users(self, user_ids: Sequence[str], model_version: str, decide: Decide) -> None:
        """Reads the users, calls `decide`, writes its decisions, and renews every vector's time to live.

        Raises StoreConflict if other writers keep writing to these users; a smaller batch conflicts less often.
        """
        state_keys = [user_state_key(user_id) for user_id in user_ids]
        vector_keys = [user_vector_key(model_version, user_id) for user_id in user_ids]
        max_conflicts = _MAX_CONFLICTS_OF_ONE if len(user_ids) == 1 else _MAX_CONFLICTS
        self._persist(lambda: self._update(user_ids, state_keys, vector_keys, decide), max_conflicts)

    def is_published(self, model_version: str, fingerprint: str, user_ids: Sequence[str]) -> bool:
        """Whether these data were completely published for this version, and the store still holds it.

        The mark alone is not enough: the store may have been emptied or have evicted keys, so `user_ids` are looked up
        too. A mark older than half its time to live does not count, so that daily publishing keeps vectors alive.
        """
        mark = published_key(model_version)
        keys = [user_state_key(user_id) for user_id in user_ids]
        keys += [user_vector_key(model_version, user_id) for user_id in user_ids]
        keys += [mark, populated_key()]

        def read() -> tuple[bytes | None, int, int]:
            with self._client.pipeline(transaction=False) as pipe:
                pipe.get(mark)
                pipe.ttl(mark)
                pipe.exists(*keys)
                value, seconds_left, num_existing = pipe.execute()
            return value, seconds_left, num_existing

        value, seconds_left, num_existing = self._persist(read)
        lives_on = seconds_left == -1 or seconds_left > self._vector_ttl_seconds // 2
        return value == fingerprint.encode() and lives_on and num_existing == len(keys)

    def mark_published(self, model_version: str, fingerprint: str) -> None:
        """Records that these data were completely published for this version, and that the store holds states."""

        def write() -> None:
            with self._client.pipeline(transaction=True) as pipe:
                pipe.set(published_key(model_version), fingerprint.encode(), ex=self._vector_ttl_seconds or None)
                pipe.set(populated_key(), fingerprint.encode())
                pipe.execute()

        self._persist(write)

    def vector_seconds_left(self, user_id: str, model_version: str) -> int | None:
        """Seconds until a stored vector expires; None when it does not."""
        seconds = self._persist(lambda: _now(self._client.ttl(user_vector_key(model_version, user_id))))
        return None if seconds == -1 else int(seconds)

    def _update(
        self, user_ids: Sequence[str], state_keys: Sequence[bytes], vector_keys: Sequence[bytes], decide: Decide
    ) -> None:
        with self._client.pipeline(transaction=True) as pipe:
            pipe.watch(*state_keys, deleted_users_key())  # type: ignore[no-untyped-call]  # so in redis-py
            values = _now(pipe.mget([*state_keys, *vector_keys]))
            deleted_at = deletions_among(
                user_ids, _now(pipe.hmget(deleted_users_key().decode(), register_fields(user_ids)))
            )
            stored = [
                StoredUser(state=state, vector=vector, deleted_at=deleted_at.get(user_id))
                for user_id, state, vector in zip(
                    user_ids, values[: len(state_keys)], values[len(state_keys) :], strict=True
                )
            ]
            writes = decide(stored)
            pipe.multi()
            changed = {
                key: write.state.to_bytes()
                for key, write in zip(state_keys, writes, strict=True)
                if write.state is not None
            }
            if changed:
                pipe.mset(changed)
            for key, write in zip(vector_keys, writes, strict=True):
                if write.vector is not None:
                    pipe.set(key, write.vector.to_bytes(), ex=self._vector_ttl_seconds or None)
                elif self._vector_ttl_seconds:
                    pipe.expire(key, self._vector_ttl_seconds)
                else:
                    pipe.persist(key)
            pipe.execute()

    def _persist(self, action: Callable[[], _T], max_conflicts: int = 0) -> _T:
        """Repeats `action` until it succeeds, for as long as the settings allow; it must be idempotent."""
        give_up_at = time.monotonic() + self._retry_seconds
        pause_seconds = _FIRST_PAUSE_SECONDS
        conflicts = 0
        while True:
            try:
                return action()
            except (
                *(redis.WatchError, redis.ConnectionError, redis.TimeoutError, OSError),
                # The server became a replica: the address may lead to the new master soon.
                redis.ReadOnlyError,
            ) as error:
                if isinstance(error, redis.ReadOnlyError):
                    self._client.connection_pool.disconnect()
                # redis-py reports a connection lost while watching as a WatchError too, so both are bounded.
                if isinstance(error, redis.WatchError):
                    conflicts += 1
                    if conflicts > max_conflicts:
                        raise StoreConflict(f"other writers keep changing the published users: {error}") from error
                if time.monotonic() + pause_seconds > give_up_at:
                    raise StoreError(
                        f"{unreachable(self._url, error)}; it was lost, and did not return within "
                        f"{self._retry_seconds:g} s"
                    ) from error
                _log.warning("store_retry", error=str(error), pause_seconds=round(pause_seconds, 2))
            except redis.RedisError as error:
                raise StoreError(unreachable(self._url, error)) from error
            time.sleep(pause_seconds * random.uniform(0.5, 1.0))
            pause_seconds = min(2 * pause_seconds, _LONGEST_PAUSE_SECONDS)


def _now(answer: Any) -> Any:
    """redis-py types one client for both its blocking and its asyncio use; this client is blocking."""
    return answer
