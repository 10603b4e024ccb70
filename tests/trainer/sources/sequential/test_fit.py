"""The weights that the sequential source keeps."""

from __future__ import annotations

import numpy as np

from tandem.contract.vocabulary import MISSING_ROW
from tests.trainer.small_dataset import dataset_of
from trainer.config.train_config import SequentialConfig
from trainer.models.sequential import sequential_weights
from trainer.sources.sequential.fit import fit_sequential

NUM_ITEMS = 30
GENERATOR = np.random.default_rng(0)
# No user chooses the last three items.
DATASET = dataset_of([GENERATOR.permutation(NUM_ITEMS - 3)[:8].tolist() for _ in range(60)], num_items=NUM_ITEMS)
CONFIG = SequentialConfig(l2=(20.0,), decays_events=(4.0,), num_neighbours=(6,))


def test_the_strongest_weights_of_each_item_are_kept_highest_first() -> None:
    kept = fit_sequential(DATASET, DATASET.lengths, CONFIG)
    learned = sequential_weights(DATASET, decay_events=4.0, l2=20.0)
    assert kept.rows.shape == kept.weights.shape == (NUM_ITEMS, 6)
    assert (np.diff(kept.weights.astype(np.float32), axis=1) <= 0).all()
    for row, item in enumerate(learned.items):
        assert set(kept.rows[item].tolist()) == set(
            learned.items[np.argsort(-np.abs(learned.weights[row]))[:6]].tolist()
        )
    assert (kept.rows[-3:] == MISSING_ROW).all()


def test_only_the_first_events_are_learned_from() -> None:
    half = fit_sequential(DATASET, DATASET.lengths // 2, CONFIG)
    whole = fit_sequential(DATASET.first_events(DATASET.lengths // 2), DATASET.lengths // 2, CONFIG)
    assert half.weights.tolist() == whole.weights.tolist()


def test_choices_that_do_not_count_are_no_targets_and_stay_in_histories() -> None:
    dataset = dataset_of([[0, 1, 2]] * 20, num_items=3)
    counts = np.tile([1.0, 0.0, 1.0], 20).astype(np.float32)
    config = SequentialConfig(l2=(1.0,), decays_events=(4.0,), num_neighbours=(3,))
    kept = fit_sequential(dataset, dataset.lengths, config, choice_weights=counts)
    assert not (kept.rows == 1).any(), "nothing leads to the choice that does not count"
    assert 2 in kept.rows[1], "but it leads to others"


def test_a_large_catalogue_counts_what_follows() -> None:
    large = CONFIG.model_copy(update={"max_items": NUM_ITEMS - 1})
    kept = fit_sequential(DATASET, DATASET.lengths, large)
    assert kept.rows.shape == (NUM_ITEMS, 6)
    assert (kept.weights[kept.rows != MISSING_ROW] > 0).all()
    assert (kept.rows[-3:] == MISSING_ROW).all()
    chain = dataset_of([[0, 1, 2, 3]] * 5, num_items=5)
    counted = fit_sequential(chain, chain.lengths, large.model_copy(update={"max_items": 1}))
    assert counted.rows[:4, 0].tolist() == [1, 2, 3, MISSING_ROW]
