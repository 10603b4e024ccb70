"""The choice of hyperparameters, on data with a known best choice."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tests.trainer.small_dataset import dataset_of
from trainer.baselines import tuning
from trainer.baselines.all_baselines import all_baselines
from trainer.baselines.ease import Ease
from trainer.baselines.ials import IALS
from trainer.baselines.item_knn import ItemKNN
from trainer.baselines.tuning import Grids, tune
from trainer.dataset.eval_split import EvalSplit, leave_last_out_split
from trainer.scoring.scorer import Scorer

NUM_ITEMS = 24
GRIDS = Grids(
    item_knn=(ItemKNN(num_neighbours=1), ItemKNN(num_neighbours=50)),
    ease=(Ease(l2=1_000.0), Ease(l2=5.0)),
    ials=(IALS(num_factors=4, num_iterations=3),),
    taus=(100.0, 1.0),
    weights=(0.5, 1.0),
)


def changing_tastes() -> EvalSplit:
    """Users choose four items of one of three colours, then four items of the next colour."""
    generator = np.random.default_rng(0)
    colours = np.arange(NUM_ITEMS).reshape(3, 8)
    histories = []
    for user in range(90):
        before, after = colours[user % 3], colours[(user + 1) % 3]
        histories.append(np.concatenate([generator.permutation(before)[:4], generator.permutation(after)[:4]]))
    return leave_last_out_split(dataset_of(histories, num_items=NUM_ITEMS), skip=0)


def reciprocal_rank(split: EvalSplit, scorer: Scorer) -> float:
    scores = scorer.scores(split.users)
    for row, user in enumerate(split.users):
        scores[row, split.known.item_rows[split.known.user_rows == user]] = -np.inf
    target_scores = scores[np.arange(len(split.users)), split.target_rows]
    return float(np.mean(1.0 / (scores >= target_scores[:, None]).sum(axis=1)))


@pytest.fixture(scope="module")
def split() -> EvalSplit:
    return changing_tastes()


NO_TEXT = np.zeros((NUM_ITEMS, 0), np.float32)


def test_it_takes_the_best_hyperparameters_on_validation(split: EvalSplit) -> None:
    chosen = tune(split, NO_TEXT, reciprocal_rank, GRIDS)
    assert chosen.item_knn == ItemKNN(num_neighbours=50)
    assert chosen.ease_recency.recency_tau == 1.0
    assert chosen == tune(split, NO_TEXT, reciprocal_rank, GRIDS)


def test_the_choice_is_at_least_as_good_as_the_whole_grid(split: EvalSplit) -> None:
    chosen = tune(split, NO_TEXT, reciprocal_rank, GRIDS)
    qualities = {
        baseline.name: reciprocal_rank(split, baseline.fit(split.known))
        for baseline in all_baselines(split.known, NO_TEXT, chosen)
    }
    assert qualities["EASE"] == max(reciprocal_rank(split, ease.fit(split.known)) for ease in GRIDS.ease)
    assert qualities["EASE+recency"] > qualities["EASE"]
    two_parts, three_parts = (qualities[name] for name in qualities if name.startswith("Hybrid"))
    # Content weight 0 was tried.
    assert two_parts >= qualities["EASE+recency"]
    assert three_parts >= two_parts


def test_hyperparameters_are_chosen_on_a_sample_of_a_large_split(split: EvalSplit, monkeypatch) -> None:
    monkeypatch.setattr(tuning, "MAX_USERS", 30)
    asked = set()

    def quality(sampled: EvalSplit, scorer: Scorer) -> float:
        asked.add(tuple(sampled.users))
        assert sampled.target_rows.tolist() == split.target_rows[sampled.users].tolist()
        return reciprocal_rank(sampled, scorer)

    tune(split, NO_TEXT, quality, GRIDS)
    assert [len(users) for users in asked] == [30]


def test_a_sample_keeps_all_targets_of_its_users(split: EvalSplit, monkeypatch) -> None:
    monkeypatch.setattr(tuning, "MAX_USERS", 2)
    offsets = np.array([0, 1, 4, 6])
    several = replace(
        split,
        users=np.array([0, 5, 8]),
        target_offsets=offsets,
        target_rows=np.arange(6),
        target_ratings=np.arange(6, dtype=np.float32),
    )
    rows_of = {
        user: several.target_rows[offsets[index] : offsets[index + 1]].tolist() for index, user in enumerate([0, 5, 8])
    }

    def quality(sampled: EvalSplit, scorer: Scorer) -> float:
        expected = [row for user in sampled.users.tolist() for row in rows_of[user]]
        assert sampled.target_rows.tolist() == expected
        assert sampled.target_offsets[-1] == len(expected) == len(sampled.target_ratings)
        return 0.0

    tune(several, NO_TEXT, quality, GRIDS)
