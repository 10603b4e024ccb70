"""Reads the serving keys in bulk: states and vectors of users, and the live catalogue."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Self

import structlog

from feature_sync.store.connection import StoreConnection
from tandem.contract.errors import StoreValueError
from tandem.contract.live_items import LiveItemVector, item_vectors_feed, items_feed
from tandem.contract.store import UserState, UserVector, user_state_key, user_vector_key
from tandem.contract.streams import AppliedItemChange
from tandem.ops.secrets import user_digest

_STATE_PREFIX: Final = user_state_key("")
_KEYS_AT_A_TIME: Final = 1_000

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, kw_only=True)
class ServingUser:
    """One user's stored state and vector, as a request reads them."""

    user_id: str
    state: UserState
    vector: UserVector | None
    """The vector under one model version; None if none is stored."""


class ServingKeys:
    """A connection that reads the serving keys. Every method raises StoreError if the store cannot be reached."""

    def __init__(self, url: str) -> None:
        self._connection = StoreConnection(url)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._connection.close()

    def user_ids(self) -> Iterator[str]:
        """Ids of users with a state. A user who is written meanwhile may be missing, and a user may appear twice."""
        cursor = b"0"
        while True:
            cursor, keys = self._connection.call(
                "SCAN", cursor, "MATCH", _STATE_PREFIX + b"*", "COUNT", _KEYS_AT_A_TIME
            )
            for key in keys:
                yield key[len(_STATE_PREFIX) :].decode()
            if cursor == b"0":
                return

    def users(self, user_ids: Sequence[str], model_version: str) -> list[ServingUser]:
        """The users that have a readable state."""
        keys = [user_state_key(user_id) for user_id in user_ids]
        keys += [user_vector_key(model_version, user_id) for user_id in user_ids]
        values = self._connection.call("MGET", *keys) if keys else []
        found = []
        for user_id, state, vector in zip(user_ids, values[: len(user_ids)], values[len(user_ids) :], strict=True):
            if state is None:
                continue
            try:
                found.append(
                    ServingUser(
                        user_id=user_id,
                        state=UserState.from_bytes(state),
                        vector=None if vector is None else UserVector.from_bytes(vector),
                    )
                )
            except StoreValueError as error:
                _log.warning("unreadable_user_left_out", user=user_digest(user_id), error=str(error))
        return found

    def item_changes(self) -> dict[str, AppliedItemChange]:
        """The newest change of every item that was ever changed, by item id."""
        fields = self._hash(items_feed().values)
        return {item_id: AppliedItemChange.from_bytes(value) for item_id, value in fields.items()}

    def item_vectors(self, model_version: str) -> dict[str, LiveItemVector]:
        """Vectors of changed items under one model version, by item id."""
        fields = self._hash(item_vectors_feed(model_version).values)
        return {item_id: LiveItemVector.from_bytes(value) for item_id, value in fields.items()}

    def expire(self, keys: Sequence[bytes], seconds: int) -> None:
        """Sets the time to live of keys; ignores keys that do not exist."""
        for start in range(0, len(keys), _KEYS_AT_A_TIME):
            self._connection.run([("EXPIRE", key, seconds) for key in keys[start : start + _KEYS_AT_A_TIME]])

    def _hash(self, key: bytes) -> dict[str, bytes]:
        """A whole hash, read in parts, so that other clients do not wait."""
        fields: dict[str, bytes] = {}
        cursor = b"0"
        while True:
            cursor, flat = self._connection.call("HSCAN", key, cursor, "COUNT", _KEYS_AT_A_TIME)
            fields.update(zip((name.decode() for name in flat[::2]), flat[1::2], strict=True))
            if cursor == b"0":
                return fields
