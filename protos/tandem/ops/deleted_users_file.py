"""The register of deleted users as a file of the data folder, which the trainer and feature_sync share."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from tandem.contract.deleted_users import DeletedUsers
from tandem.contract.errors import DeletedUsersUnreadable
from tandem.ops.file_lock import file_lock
from tandem.ops.file_replacement import take_owner

DELETED_USERS_FILE: Final = "deleted-users.json"
"""Name of the register in the data folder."""


def read_deleted_users(data_dir: Path) -> DeletedUsers:
    """The register of a data folder; empty where nobody was deleted.

    Raises DeletedUsersUnreadable for a damaged file, and OSError for one that cannot be read: either may hide a
    deletion.
    """
    path = data_dir / DELETED_USERS_FILE
    try:
        return DeletedUsers.from_bytes(path.read_bytes())
    except FileNotFoundError:
        return DeletedUsers()
    except DeletedUsersUnreadable as error:
        raise DeletedUsersUnreadable(f"{path}: {error}") from error


def add_deleted_users(data_dir: Path, added: DeletedUsers) -> DeletedUsers:
    """Unites the register of a data folder with `added`; returns the register, which is on disk then.

    Only its owner may read the file. Raises DeletedUsersUnreadable and OSError.
    """
    register = read_deleted_users(data_dir)
    if register.united(added) == register:
        return register  # also in a folder that nobody may write
    with deleted_users_settled(data_dir):
        before = read_deleted_users(data_dir)
        register = before.united(added)
        if register != before:
            _write(data_dir / DELETED_USERS_FILE, register.to_bytes())
        return register


@contextmanager
def deleted_users_settled(data_dir: Path) -> Iterator[None]:
    """Nobody adds to the register during the block: what was made by it can be put in its place within. Raises
    OSError."""
    data_dir.mkdir(parents=True, exist_ok=True)
    with file_lock(data_dir / f".{DELETED_USERS_FILE}.lock"):
        yield


def _write(path: Path, content: bytes) -> None:
    """Replaces the file; a crash leaves the old or the new one."""
    staging = path.with_name(f".{path.name}.new")
    staging.unlink(missing_ok=True)
    handle = os.open(staging, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "wb") as sink:
        sink.write(content)
        sink.flush()
        os.fsync(sink.fileno())
    take_owner(staging, path.parent)
    staging.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
