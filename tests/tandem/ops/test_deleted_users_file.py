"""The register of deleted users in the data folder."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from tandem.contract.deleted_users import DeletedUsers, user_sha256
from tandem.contract.errors import DeletedUsersUnreadable
from tandem.ops.deleted_users_file import DELETED_USERS_FILE, add_deleted_users, read_deleted_users


def test_of_a_folder_without_one_nobody_was_deleted_and_nothing_is_written(tmp_path: Path) -> None:
    assert read_deleted_users(tmp_path / "none") == DeletedUsers()
    assert add_deleted_users(tmp_path / "none", DeletedUsers()) == DeletedUsers()
    assert not (tmp_path / "none").exists()


def test_many_writers_at_once_lose_no_user(tmp_path: Path) -> None:
    registers = [DeletedUsers({user_sha256(f"user-{number}"): number + 1}) for number in range(20)]
    threads = [threading.Thread(target=add_deleted_users, args=(tmp_path, register)) for register in registers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = read_deleted_users(tmp_path)
    assert found.among(f"user-{number}" for number in range(20)) == {f"user-{n}": n + 1 for n in range(20)}
    assert [path.name for path in tmp_path.iterdir()] == [DELETED_USERS_FILE]
    assert (tmp_path / DELETED_USERS_FILE).stat().st_mode & 0o777 == 0o600


def test_a_damaged_one_is_named_and_not_replaced(tmp_path: Path) -> None:
    (tmp_path / DELETED_USERS_FILE).write_text("{")
    for call in (read_deleted_users, lambda folder: add_deleted_users(folder, DeletedUsers({user_sha256("ann"): 1}))):
        with pytest.raises(DeletedUsersUnreadable, match=DELETED_USERS_FILE):
            call(tmp_path)
    assert (tmp_path / DELETED_USERS_FILE).read_text() == "{"
