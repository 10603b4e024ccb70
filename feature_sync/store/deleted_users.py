"""The register of deleted users in the online store, which those who write states read with the states.

The file in the data folder is its other copy. `agree` makes both hold what either holds: the store's is restored after
the store was emptied, and the file learns of deletions that another machine made.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import structlog

from feature_sync.store.connection import Command, StoreConnection
from tandem.contract.deleted_users import DeletedUsers, checked_times, user_sha256
from tandem.contract.errors import DeletedUsersUnreadable
from tandem.contract.store import deleted_users_key
from tandem.ops.deleted_users_file import add_deleted_users

_SET_LATER: Final = """
for index = 1, #ARGV, 2 do
  local held = redis.call('HGET', KEYS[1], ARGV[index])
  if not held or tonumber(held) < tonumber(ARGV[index + 1]) then
    redis.call('HSET', KEYS[1], ARGV[index], ARGV[index + 1])
  end
end
return redis.call('HLEN', KEYS[1])
"""
"""A script, so that of two deletions of one user at once the later stays."""
_USERS_AT_ONCE: Final = 1_000

_log = structlog.get_logger(__name__)


def lookup(user_ids: Sequence[str]) -> Command:
    """A command that asks for the deletions of these users; `deletions_among` reads its reply."""
    return ("HMGET", deleted_users_key(), *register_fields(user_ids))


def register_fields(user_ids: Sequence[str]) -> list[str]:
    """The fields of users in the store's register, at least one: Redis refuses HMGET without a field."""
    return [user_sha256(user_id) for user_id in user_ids] or [""]


def deletions_among(user_ids: Sequence[str], reply: Sequence[bytes | None]) -> dict[str, int]:
    """Of the users of `lookup` those who were deleted, with the time, microseconds since 1970."""
    return {
        user_id: int(deleted_at) for user_id, deleted_at in zip(user_ids, reply, strict=False) if deleted_at is not None
    }


def stored_deleted_users(store: StoreConnection) -> DeletedUsers:
    """The store's register. Raises StoreError and DeletedUsersUnreadable."""
    return _register(store.call("HGETALL", deleted_users_key()))


def store_deleted_users(store: StoreConnection, register: DeletedUsers) -> None:
    """Adds to the store's register. Raises StoreError."""
    entries = list(register.times.items())
    for start in range(0, len(entries), _USERS_AT_ONCE):
        part = [value for entry in entries[start : start + _USERS_AT_ONCE] for value in entry]
        store.call("EVAL", _SET_LATER, 1, deleted_users_key(), *part)


def agree(store: StoreConnection, data_dir: Path) -> DeletedUsers:
    """Makes the store's and the folder's register equal; returns it.

    Raises StoreError, DeletedUsersUnreadable, and OSError where the folder's cannot be read or written.
    """
    stored = stored_deleted_users(store)
    register = add_deleted_users(data_dir, stored)
    if register != stored:
        store_deleted_users(store, register)
        _log.info("deleted_users_restored", num_users=len(register), num_stored=len(stored))
    return register


def _register(reply: Sequence[Any]) -> DeletedUsers:
    try:
        pairs = [(bytes(name).decode(), int(time)) for name, time in zip(reply[::2], reply[1::2], strict=True)]
    except ValueError as error:
        raise DeletedUsersUnreadable(f"register of deleted users in the store: {error}") from error
    return DeletedUsers(checked_times(pairs))
