import numpy as np
import pytest

from tests.trainer.known_answers import Table
from tests.trainer.small_dataset import dataset_of
from trainer.core.errors import DataError
from trainer.experiments.cold_items import COLD_CUTOFF, cold_items, random_recall
from trainer.scoring.full_evaluation import evaluate

NUM_ITEMS, NUM_USERS = 300, 800
HISTORIES = [np.random.default_rng(user).permutation(NUM_ITEMS - 100)[: 1 + user % 40].tolist() for user in range(800)]
DATASET = dataset_of(HISTORIES, num_items=NUM_ITEMS)  # the last 100 items have no interaction


def test_cold_items_are_targets_and_not_known() -> None:
    cold = cold_items(DATASET)
    rows = set(cold.rows.tolist())
    assert len(rows) == 20
    assert max(rows) < NUM_ITEMS - 100
    for part in (cold.all_choices, cold.last_choice):
        assert not rows & set(part.known.item_rows.tolist())
        assert len(part.known.item_rows) == sum(row not in rows for history in HISTORIES for row in history)
        assert (part.known.lengths[part.users] > 0).all()
    asked = {}
    for user, history in enumerate(HISTORIES):
        targets = [row for row in history if row in rows]
        if targets and len(targets) < len(history):
            asked[user] = targets
    part = cold.all_choices
    assert part.users.tolist() == list(asked)
    assert part.target_rows.tolist() == [row for targets in asked.values() for row in targets]
    assert np.diff(part.target_offsets).tolist() == [len(targets) for targets in asked.values()]
    lasts = {user: targets[-1] for user, targets in asked.items() if HISTORIES[user][-1] == targets[-1]}
    assert cold.last_choice.users.tolist() == list(lasts)
    assert cold.last_choice.target_rows.tolist() == list(lasts.values())


def test_the_draw_is_seeded() -> None:
    assert cold_items(DATASET).rows.tolist() == cold_items(DATASET).rows.tolist()
    assert cold_items(DATASET).rows.tolist() != cold_items(DATASET, seed=1).rows.tolist()


def test_a_random_order_reaches_the_expected_recall() -> None:
    part = cold_items(DATASET).all_choices
    measured = evaluate(part, Table(np.random.default_rng(0).normal(size=(NUM_USERS, NUM_ITEMS))), name="random")
    assert measured.means()[f"recall@{COLD_CUTOFF}"] == pytest.approx(random_recall(part), abs=0.02)
    assert random_recall(part, cutoff=NUM_ITEMS) == 1.0


def test_a_scorer_that_never_saw_them_can_still_be_perfect() -> None:
    cold = cold_items(DATASET)
    table = np.zeros((NUM_USERS, NUM_ITEMS))
    table[:, cold.rows] = 1.0
    assert evaluate(cold.all_choices, Table(table), name="cold first").means()["recall@50"] == 1.0


def test_no_users_to_evaluate_are_an_error() -> None:
    with pytest.raises(DataError, match="bring more data"):
        cold_items(dataset_of([[0], [1]], num_items=2))
