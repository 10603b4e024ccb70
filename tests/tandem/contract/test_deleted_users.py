"""The register of deleted users, and what is left out because of it."""

from __future__ import annotations

import hashlib
import json

import pytest

from tandem.contract.deleted_users import DeletedUsers, is_left_out, user_sha256
from tandem.contract.errors import DeletedUsersUnreadable

ANN, BOB = user_sha256("ann"), user_sha256("bob")


def test_a_user_is_named_by_the_sha256_of_the_id() -> None:
    assert user_sha256("é") == hashlib.sha256("é".encode()).hexdigest()


@pytest.mark.parametrize(
    ("deleted_at", "times", "left_out"),
    [
        (None, (5,), False),
        (None, (), False),
        (10, (), True),  # without a time
        (10, (0,), True),
        (10, (10, 10), True),
        (10, (11, 10), True),  # received before, dated after: a client whose clock is ahead
        (10, (9, 11), True),  # happened before, sent afterwards
        (10, (11, 11), False),
    ],
)
def test_what_came_later_is_a_new_beginning(deleted_at: int | None, times: tuple[int, ...], left_out: bool) -> None:
    assert is_left_out(deleted_at, *times) is left_out


def test_a_register_is_read_as_it_was_written_and_tells_no_id() -> None:
    register = DeletedUsers({ANN: 1, BOB: 2})
    assert DeletedUsers.from_bytes(register.to_bytes()) == register
    assert b"ann" not in register.to_bytes()
    assert register.deleted_at("bob") == 2
    assert register.deleted_at("cat") is None
    assert register.among(["cat", "ann"]) == {"ann": 1}


def test_of_two_registers_the_later_deletion_counts() -> None:
    united = DeletedUsers({ANN: 1, BOB: 5}).united(DeletedUsers({ANN: 3, BOB: 2}))
    assert united == DeletedUsers({ANN: 3, BOB: 5})


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"[]",
        b'{"format": 2, "users": {}}',
        b'{"format": 1, "users": []}',
        json.dumps({"format": 1, "users": {"ann": 1}}).encode(),
        json.dumps({"format": 1, "users": {ANN: "soon"}}).encode(),
        json.dumps({"format": 1, "users": {ANN: True}}).encode(),
        json.dumps({"format": 1, "users": {ANN: 0}}).encode(),
    ],
)
def test_a_damaged_register_is_not_taken_for_an_empty_one(value: bytes) -> None:
    with pytest.raises(DeletedUsersUnreadable, match="register of deleted users"):
        DeletedUsers.from_bytes(value)
