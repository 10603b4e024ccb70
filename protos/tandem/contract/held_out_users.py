"""Held-out users: users whose next item is known, to evaluate a bundle as it is served. Stored as lines of JSON."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tandem.contract.errors import BundleCorrupt, StoreValueError
from tandem.contract.store import UserState
from tandem.contract.whole_files import read_whole

_MAX_BYTES = 4 << 30


@dataclass(frozen=True)
class HeldOutUser:
    """A user as they were before they chose `target_item_id`."""

    user_id: str
    state: UserState
    target_item_id: str


def write_held_out_users(path: Path, users: Sequence[HeldOutUser]) -> None:
    """Writes one JSON object per line and user; `state` holds the online store's bytes in base64."""
    with path.open("w") as sink:
        for user in users:
            state = base64.b64encode(user.state.to_bytes()).decode()
            line = {"user_id": user.user_id, "state": state, "target_item_id": user.target_item_id}
            sink.write(json.dumps(line) + "\n")


def read_held_out_users(path: Path) -> tuple[HeldOutUser, ...]:
    """Reads a file that `write_held_out_users` wrote. Raises BundleCorrupt, naming the line that is unreadable, and
    OSError."""
    users = []
    for number, line in enumerate(read_whole(path, max_bytes=_MAX_BYTES).splitlines(), start=1):
        try:
            raw = json.loads(line)
            state = UserState.from_bytes(base64.b64decode(raw["state"]))
            users.append(HeldOutUser(raw["user_id"], state, raw["target_item_id"]))
        except (ValueError, KeyError, TypeError, StoreValueError) as error:
            raise BundleCorrupt(f"{path.name} line {number} is unreadable: {error}") from error
    return tuple(users)
