"""Erases a user, and keeps the user from coming back.

    the register in the data folder -> the register in the store -> every place

The registers are first, because whatever is under way meanwhile (an event, a publish, a file of the archive, prepared
data) looks there before it writes. So a deletion that was killed is repaired by running it again.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Final

from feature_sync.core.settings import Settings
from feature_sync.personal_data.all_places import Remains, all_places, remains
from feature_sync.personal_data.place import UNREACHABLE, PartlyDone, Place, Subject, problem_line
from feature_sync.store.connection import StoreConnection
from feature_sync.store.deleted_users import agree, store_deleted_users
from tandem.contract.deleted_users import DeletedUsers, user_sha256
from tandem.ops.deleted_users_file import add_deleted_users
from tandem.ops.file_lock import file_lock

_LOCK: Final = ".delete-user.lock"


@dataclass(frozen=True, kw_only=True)
class PlaceAccount:
    """What became of one place."""

    place: str
    where: str
    found: int
    removed: int
    problem: str = ""
    """Why the place could not be erased, in one line; empty: it was."""


@dataclass(frozen=True, kw_only=True)
class Account:
    """The account of a deletion. It does not name the user, so that it can be kept."""

    user_sha256: str
    deleted_at: str
    """ISO 8601, UTC."""
    dry_run: bool
    complete: bool
    """Whether everything that can be reached was erased; of a dry run, whether everything could be looked at."""
    places: Sequence[PlaceAccount]
    remains: Sequence[Remains]

    def to_dict(self) -> dict[str, object]:
        """The account as JSON values."""
        return asdict(self)


def delete_user(settings: Settings, user_id: str, *, dry_run: bool = False) -> Account:
    """Erases a user everywhere; with `dry_run` counts what would be erased.

    A place that fails does not keep the others from being erased: the account names it. Raises FeatureSyncError,
    DeletedUsersUnreadable or OSError if the user cannot be registered as deleted: then nothing was erased.
    """
    with StoreConnection(settings.store_url) as store:
        store.call("PING")  # before anything is written
        if dry_run:
            return _account(settings, store, Subject(user_id, _now(store)), dry_run=True)
        settings.data_dir.mkdir(parents=True, exist_ok=True)
        # Two deletions would replace the same files, each without the other's change.
        with file_lock(settings.data_dir / _LOCK):
            agree(store, settings.data_dir)
            user = Subject(user_id, _now(store))
            deletion = DeletedUsers({user_sha256(user_id): user.until})
            add_deleted_users(settings.data_dir, deletion)
            store_deleted_users(store, deletion)
            return _account(settings, store, user, dry_run=False)


def _now(store: StoreConnection) -> int:
    """Microseconds since 1970, by the later of two clocks: what was received until now must be dated before."""
    seconds, microseconds = store.call("TIME")
    return max(time.time_ns() // 1_000, int(seconds) * 1_000_000 + int(microseconds))


def _account(settings: Settings, store: StoreConnection, user: Subject, *, dry_run: bool) -> Account:
    with all_places(settings, store, names_items=False) as found:
        places = [_place_account(settings, place, user, dry_run=dry_run) for place in found]
    return Account(
        user_sha256=user_sha256(user.user_id),
        deleted_at=datetime.fromtimestamp(user.until / 1e6, UTC).isoformat(),
        dry_run=dry_run,
        complete=not any(place.problem for place in places),
        places=places,
        remains=remains(settings, user.user_id),
    )


def _place_account(settings: Settings, place: Place, user: Subject, *, dry_run: bool) -> PlaceAccount:
    found, problem = 0, ""
    try:
        found = len(place.find(user)) if dry_run else place.erase(user)
    except UNREACHABLE as error:
        problem = problem_line(error, settings.data_dir)
        found = error.num_removed if isinstance(error, PartlyDone) else 0
    return PlaceAccount(
        place=place.name, where=place.where, found=found, removed=0 if dry_run else found, problem=problem
    )
