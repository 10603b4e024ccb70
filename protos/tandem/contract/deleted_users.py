"""The register of deleted users: who asked to be forgotten, and when.

It keeps a deleted user from coming back: with prepared data, an archive or a message that was not erased, from a copy,
or from an event that was under way. It names users by the SHA-256 of their ids, so that the register itself tells
nobody's id. There are two copies of equal meaning, a file in the data folder, which the trainer reads, and a hash in
the online store (`store.deleted_users_key`), which those who write states read; see docs/personal-data.md.

The rule, in every program: what happened up to the deletion, or was received up to it, is left out; so is what has no
time. What happened and was received later is a new beginning.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final, Self

from tandem.contract.errors import DeletedUsersUnreadable

_FORMAT: Final = 1
_DIGEST: Final = re.compile(r"[0-9a-f]{64}")


def user_sha256(user_id: str) -> str:
    """The name of a user in the register: SHA-256 of the id in UTF-8, hex."""
    return hashlib.sha256(user_id.encode()).hexdigest()


def is_left_out(deleted_at: int | None, *times: int) -> bool:
    """Whether something of a user is left out: times in microseconds since 1970, 0 for an unknown time.

    `deleted_at` is the user's deletion; None: the user was not deleted. Without `times`, nothing says that it came
    later.
    """
    return deleted_at is not None and min(times, default=0) <= deleted_at


@dataclass(frozen=True)
class DeletedUsers:
    """The time of every user's last deletion."""

    times: Mapping[str, int] = field(default_factory=dict)
    """`user_sha256` -> microseconds since 1970."""

    def __len__(self) -> int:
        return len(self.times)

    def deleted_at(self, user_id: str) -> int | None:
        """When the user was deleted last, microseconds since 1970; None: never."""
        return self.times.get(user_sha256(user_id)) if self.times else None

    def among(self, user_ids: Iterable[str]) -> dict[str, int]:
        """Those of the users who were deleted, with the time."""
        if not self.times:
            return {}
        found = ((user_id, self.deleted_at(user_id)) for user_id in user_ids)
        return {user_id: deleted_at for user_id, deleted_at in found if deleted_at is not None}

    def united(self, other: DeletedUsers) -> DeletedUsers:
        """The users of both registers, each with the later time."""
        names = [*self.times, *(name for name in other.times if name not in self.times)]
        return DeletedUsers({name: max(self.times.get(name, 0), other.times.get(name, 0)) for name in names})

    def to_bytes(self) -> bytes:
        """The register as JSON, with its format number."""
        users = dict(sorted(self.times.items()))
        return json.dumps({"format": _FORMAT, "users": users}, indent=1).encode() + b"\n"

    @classmethod
    def from_bytes(cls, value: bytes) -> Self:
        """Reads what `to_bytes` wrote. Raises DeletedUsersUnreadable."""
        try:
            raw = json.loads(value)
        except ValueError as error:
            raise DeletedUsersUnreadable(f"register of deleted users: not JSON: {error}") from error
        if not isinstance(raw, dict) or raw.get("format") != _FORMAT or not isinstance(raw.get("users"), dict):
            raise DeletedUsersUnreadable(f"register of deleted users: not format {_FORMAT}")
        return cls(checked_times(raw["users"].items()))


NOBODY: Final = DeletedUsers()


def checked_times(entries: Iterable[tuple[object, object]]) -> dict[str, int]:
    """Entries of a register, digest and time, as they were read. Raises DeletedUsersUnreadable for any other value."""
    times: dict[str, int] = {}
    for name, time in entries:
        if not isinstance(name, str) or _DIGEST.fullmatch(name) is None or type(time) is not int or time <= 0:
            raise DeletedUsersUnreadable(
                f"register of deleted users: {str(name)[:80]!r}: {str(time)[:80]!r} is not a SHA-256 and a time in "
                "microseconds"
            )
        times[name] = time
    return times
