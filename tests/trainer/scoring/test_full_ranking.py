import numpy as np
import pytest

from tandem.contract.vocabulary import MISSING_ROW
from tests.trainer.known_answers import Table, split_of
from tests.trainer.small_dataset import dataset_of
from trainer.dataset.eval_split import leave_last_out_split
from trainer.evaluation.ranks import TieOrder
from trainer.scoring.full_ranking import LIST_LENGTH, rank_split


def test_ranks_and_lists_leave_out_the_history() -> None:
    split = split_of([[0, 1], [5], []], {0: [4, 2], 2: [3]}, num_items=6)
    ranking = rank_split(split, Table([[9, 8, 1, 7, 3, 2], [0] * 6, [1, 2, 3, 4, 5, 6]]))
    assert ranking.ranks.tolist() == [1, 3, 2]  # in the order of target_rows; user 2 has no history
    assert ranking.top_rows.shape == (2, LIST_LENGTH)
    assert ranking.top_rows[0, :5].tolist() == [3, 4, 5, 2, MISSING_ROW]
    assert ranking.top_rows[1, :7].tolist() == [5, 4, 3, 2, 1, 0, MISSING_ROW]


def test_ties_are_broken_at_random_for_each_user() -> None:
    num_users = 3_000
    split = leave_last_out_split(dataset_of([[0, 1, 2]] * num_users, num_items=6), skip=0)
    scores = [9, 9, 5, 7, 5, 5]  # rows 0 and 1 are history; rows 4 and 5 tie with the target
    ranking = rank_split(split, Table([scores] * num_users))
    assert np.bincount(ranking.ranks) / num_users == pytest.approx([0, 1 / 3, 1 / 3, 1 / 3], abs=0.04)
    assert (ranking.top_rows[np.arange(num_users), ranking.ranks] == 2).all()  # ranks and lists agree


def test_tied_targets_have_different_ranks() -> None:
    split = split_of([[]] * 500, {user: [1, 2, 3] for user in range(500)}, num_items=5)
    ranks = rank_split(split, Table(np.zeros((500, 5)))).ranks.reshape(500, 3)
    assert all(len(set(row)) == 3 for row in ranks.tolist())
    assert ranks.mean(axis=0) == pytest.approx([2, 2, 2], abs=0.3)


def test_items_that_a_scorer_does_not_know_come_last_and_are_not_recommended() -> None:
    split = split_of([[0]], {0: [1, 3]}, num_items=5)
    ranking = rank_split(split, Table([[1, -np.inf, -3, -2, -np.inf]]))
    assert ranking.ranks[1] == 0
    assert ranking.ranks[0] in {2, 3}
    assert ranking.top_rows[0, :3].tolist() == [3, 2, MISSING_ROW]


def test_ranks_of_many_users_and_targets_are_those_of_a_plain_sort() -> None:
    generator = np.random.default_rng(3)
    table = generator.normal(size=(2_500, 30)).astype(np.float32)  # more users than a batch
    chosen = [generator.permutation(30)[: generator.integers(2, 12)].tolist() for _ in range(2_500)]
    split = split_of([rows[1:] for rows in chosen], {user: rows[:1] for user, rows in enumerate(chosen)}, num_items=30)
    ranking = rank_split(split, Table(table))
    for user, rows in enumerate(chosen):
        order = [row for row in np.argsort(-table[user]).tolist() if row not in rows[1:]]
        assert ranking.ranks[user] == order.index(rows[0])
        assert ranking.top_rows[user, : len(order)].tolist() == order


def test_equal_scores_have_one_order_in_ranks_lists_and_batches_of_any_size(monkeypatch) -> None:
    """With every item as a target, ranks are a complete order; lists and single targets agree with this order."""
    generator = np.random.default_rng(5)
    table = generator.integers(0, 3, size=(300, 70)).astype(np.float32)
    whole = rank_split(split_of([[]] * 300, {user: list(range(70)) for user in range(300)}, num_items=70), Table(table))
    ranks = whole.ranks.reshape(300, 70)
    assert (np.sort(ranks, axis=1) == np.arange(70)).all()
    in_order = np.argsort(ranks, axis=1)
    assert (np.diff(np.take_along_axis(table, in_order, axis=1), axis=1) <= 0).all()
    assert (whole.top_rows == in_order[:, :LIST_LENGTH]).all()
    monkeypatch.setattr("trainer.scoring.full_ranking.BATCH_PAIRS", 7 * 70)
    single = rank_split(split_of([[]] * 300, {user: [user % 70] for user in range(300)}, num_items=70), Table(table))
    assert (single.ranks == ranks[np.arange(300), np.arange(300) % 70]).all()
    assert (single.top_rows == whole.top_rows).all()


def test_all_orders_of_equal_scores_come_equally_often() -> None:
    counts = np.zeros((5, 5))
    for seed in range(20):
        order = TieOrder.drawn(1_000, 5, seed)
        for user in range(1_000):
            counts[np.arange(5), np.argsort(np.argsort(order.keys_of_user(user)))] += 1
    assert counts / counts.sum() * 25 == pytest.approx(np.ones((5, 5)), abs=0.1)  # 6 standard errors


def test_signed_zeros_are_equal() -> None:
    split = split_of([[]] * 200, {user: [1] for user in range(200)}, num_items=2)
    ranking = rank_split(split, Table([[0.0, -0.0]] * 200))
    assert 60 < ranking.ranks.sum() < 140
    assert (ranking.top_rows[np.arange(200), ranking.ranks] == 1).all()


def test_nan_is_refused() -> None:
    with pytest.raises(ValueError, match="NaN"):
        rank_split(split_of([[]], {0: [0]}, num_items=2), Table([[1, np.nan]]))
