import numpy as np
import pytest

from tandem.contract.vocabulary import MISSING_ROW
from tests.trainer.evaluation.parts import Table, part_of
from tests.trainer.small_dataset import dataset_of
from trainer.evaluation.parts import leave_last_out_part
from trainer.evaluation.ranking import LIST_LENGTH, order_keys, rank_part


def test_ranks_and_lists_leave_out_the_history() -> None:
    part = part_of([[0, 1], [5], []], {0: [4, 2], 2: [3]}, num_items=6)
    ranking = rank_part(part, Table([[9, 8, 1, 7, 3, 2], [0] * 6, [1, 2, 3, 4, 5, 6]]))
    assert ranking.ranks.tolist() == [1, 3, 2]  # in the order of target_rows; user 2 has no history
    assert ranking.top_rows.shape == (2, LIST_LENGTH)
    assert ranking.top_rows[0, :5].tolist() == [3, 4, 5, 2, MISSING_ROW]
    assert ranking.top_rows[1, :7].tolist() == [5, 4, 3, 2, 1, 0, MISSING_ROW]


def test_ties_are_broken_at_random_for_each_user() -> None:
    num_users = 3_000
    part = leave_last_out_part(dataset_of([[0, 1, 2]] * num_users, num_items=6), skip=0)
    scores = [9, 9, 5, 7, 5, 5]  # rows 0 and 1 are history; rows 4 and 5 tie with the target
    ranking = rank_part(part, Table([scores] * num_users))
    assert np.bincount(ranking.ranks) / num_users == pytest.approx([0, 1 / 3, 1 / 3, 1 / 3], abs=0.04)
    assert (ranking.top_rows[np.arange(num_users), ranking.ranks] == 2).all()  # ranks and lists agree


def test_tied_targets_have_different_ranks() -> None:
    part = part_of([[]] * 500, {user: [1, 2, 3] for user in range(500)}, num_items=5)
    ranks = rank_part(part, Table(np.zeros((500, 5)))).ranks.reshape(500, 3)
    assert all(len(set(row)) == 3 for row in ranks.tolist())
    assert ranks.mean(axis=0) == pytest.approx([2, 2, 2], abs=0.3)


def test_what_a_scorer_does_not_know_comes_last_and_is_not_recommended() -> None:
    part = part_of([[0]], {0: [1, 3]}, num_items=5)
    ranking = rank_part(part, Table([[1, -np.inf, -3, -2, -np.inf]]))
    assert ranking.ranks[1] == 0
    assert ranking.ranks[0] in {2, 3}
    assert ranking.top_rows[0, :3].tolist() == [3, 2, MISSING_ROW]


def test_ranks_of_many_users_and_targets_are_those_of_a_plain_sort() -> None:
    generator = np.random.default_rng(3)
    table = generator.normal(size=(2_500, 30)).astype(np.float32)  # more users than a batch
    chosen = [generator.permutation(30)[: generator.integers(2, 12)].tolist() for _ in range(2_500)]
    part = part_of([rows[1:] for rows in chosen], {user: rows[:1] for user, rows in enumerate(chosen)}, num_items=30)
    ranking = rank_part(part, Table(table))
    for user, rows in enumerate(chosen):
        order = [row for row in np.argsort(-table[user]).tolist() if row not in rows[1:]]
        assert ranking.ranks[user] == order.index(rows[0])
        assert ranking.top_rows[user, : len(order)].tolist() == order


def test_keys_order_like_floats() -> None:
    scores = np.array([-np.inf, -2.5, -1e-30, 0.0, 1e-30, 3.0, np.inf], dtype=np.float32)
    keys = order_keys(scores, np.random.default_rng(0))
    assert (np.diff(keys.astype(object)) > 0).all()
    assert (keys > 0).all()
    signed_zeros = order_keys(np.array([-0.0, 0.0], dtype=np.float32), np.random.default_rng(0)) >> np.uint64(32)
    assert signed_zeros[0] == signed_zeros[1]


def test_nan_is_refused() -> None:
    with pytest.raises(ValueError, match="NaN"):
        rank_part(part_of([[]], {0: [0]}, num_items=2), Table([[1, np.nan]]))
