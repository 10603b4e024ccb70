"""Reading prepared data: streamed, joined, checked."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from feature_sync.core.errors import PreparedDataError
from feature_sync.prepared.prepared import PreparedUser, open_prepared, read_users, sample_user_ids
from tandem.contract import names
from tandem.contract.vocabulary import id_keys
from tests.feature_sync.prepared_data import Interaction

Prepare = Callable[..., Path]


def read_all(directory: Path, batch_users: int = 100) -> dict[str, PreparedUser]:
    users = [user for batch in read_users(open_prepared(directory), batch_users) for user in batch]
    assert len({user.user_id for user in users}) == len(users)
    return {user.user_id: user for user in users}


def interactions_by_size(sizes: list[int]) -> list[Interaction]:
    return [
        Interaction(f"user-{user:03}", f"item-{number}", timestamp=1_000 * number + 1)
        for user, size in enumerate(sizes)
        for number in range(size)
    ]


@pytest.mark.parametrize("row_group_size", [1, 2, 3, 7, 1_000])
def test_a_user_may_lie_in_several_row_groups(prepare: Prepare, row_group_size: int) -> None:
    sizes = [1, 5, 2, 9, 1, 1, 14, 3]
    users = read_all(prepare(interactions_by_size(sizes), row_group_size=row_group_size))
    assert [len(user.state.event_item_keys) for user in users.values()] == sizes
    longest = users["user-006"].state
    np.testing.assert_array_equal(longest.event_item_keys, id_keys(f"item-{number}" for number in range(14)))
    assert longest.event_times.tolist() == [1_000 * number + 1 for number in range(14)]
    assert longest.revision == 0


def test_batches_have_the_size_asked_for(prepare: Prepare) -> None:
    prepared = open_prepared(prepare(interactions_by_size([1] * 10)))
    assert [len(batch) for batch in read_users(prepared, 4)] == [4, 4, 2]
    assert prepared.num_users == 10


def test_a_user_with_more_rows_than_are_read_at_a_time(prepare: Prepare) -> None:
    size = 150_000
    users = read_all(prepare(interactions_by_size([1, size, 1]), row_group_size=40_000))
    state = users["user-001"].state
    assert len(state.seen_item_keys) == size
    assert state.event_times[-1] == 1_000 * (size - 1) + 1


def test_event_types_become_codes(prepare: Prepare) -> None:
    users = read_all(prepare([Interaction("u", f"i{n}", event_type=name) for n, name in enumerate(names.EVENT_TYPES)]))
    assert users["u"].state.event_codes.tolist() == [1, 2, 3, 4, 5, 6]


def test_features_are_joined_and_missing_ones_left_out(prepare: Prepare) -> None:
    data = interactions_by_size([1, 1, 1])
    users = read_all(prepare(data, users={"user-000": {"age": "1", "gender": None}, "user-002": {"gender": "F"}}))
    assert [dict(user.state.features) for user in users.values()] == [{"age": "1"}, {}, {"gender": "F"}]


def test_ids_are_any_text_in_the_order_of_their_code_points(prepare: Prepare) -> None:
    ids = ["", "10", "9", "A", "a b", "é", "\uffff", "\U0001f600"]
    users = read_all(prepare([Interaction(user, "i") for user in ids], users={user: {"f": user} for user in ids}))
    assert list(users) == ids
    assert all(user.state.features == {"f": user_id} for user_id, user in users.items())


def test_no_interactions(prepare: Prepare) -> None:
    directory = prepare([])
    assert read_all(directory) == {}
    assert sample_user_ids(open_prepared(directory), 5) == []


def test_sampled_users_exist_and_are_spread(prepare: Prepare) -> None:
    directory = prepare(interactions_by_size([1] * 30), row_group_size=5)
    sampled = sample_user_ids(open_prepared(directory), 6)
    assert len(set(sampled)) == 6
    assert set(sampled) <= set(read_all(directory))
    assert sampled[0] < "user-005" < "user-025" <= sampled[-1]


def test_interactions_that_are_not_sorted_are_refused(prepare: Prepare) -> None:
    directory = prepare([Interaction("b", "i"), Interaction("a", "i")], sort=False)
    with pytest.raises(PreparedDataError, match=r"not sorted by user: 'a' after 'b'"):
        read_all(directory)


def test_an_unknown_event_type_is_refused(prepare: Prepare) -> None:
    with pytest.raises(PreparedDataError, match="teleport"):
        read_all(prepare([Interaction("a", "i", event_type="teleport")]))


def test_no_folder(tmp_path: Path) -> None:
    with pytest.raises(PreparedDataError, match="is not prepared data"):
        open_prepared(tmp_path / "nowhere")


@pytest.mark.parametrize("name", ["interactions.parquet", "users.parquet"])
def test_a_damaged_file(prepare: Prepare, name: str) -> None:
    directory = prepare(interactions_by_size([1, 2]))
    (directory / name).write_bytes(b"PAR1 but not really")
    with pytest.raises(PreparedDataError, match=name):
        read_all(directory)


def test_a_missing_column(prepare: Prepare) -> None:
    directory = prepare(interactions_by_size([1, 2]))
    (directory / "users.parquet").replace(directory / "interactions.parquet")
    (prepare(interactions_by_size([1])) / "users.parquet").replace(directory / "users.parquet")
    (directory / "prepared.json").write_text('{"name": "of an earlier trainer", "fingerprint": "f"}')
    with pytest.raises(PreparedDataError, match="lacks the columns event_type, item_id, timestamp"):
        read_all(directory)


@pytest.mark.parametrize("name", ["interactions.parquet", "users.parquet"])
def test_a_flipped_bit_is_found(prepare: Prepare, name: str) -> None:
    path = prepare(interactions_by_size([1, 2])) / name
    content = bytearray(path.read_bytes())
    content[len(content) // 3] ^= 1
    path.write_bytes(content)
    with pytest.raises(PreparedDataError, match=f"{name}: is damaged: it has SHA-256 .* have the trainer prepare"):
        open_prepared(path.parent)


@pytest.mark.parametrize("about", ["", "[]", "{}", '{"name": "x"}'])
def test_a_wrong_prepared_json(prepare: Prepare, about: str) -> None:
    directory = prepare(interactions_by_size([1]))
    (directory / "prepared.json").write_text(about)
    with pytest.raises(PreparedDataError, match="is not prepared data"):
        open_prepared(directory)
