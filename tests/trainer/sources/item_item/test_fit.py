"""The weights of EASE that the item-item source keeps."""

from __future__ import annotations

import numpy as np

from tandem.contract.vocabulary import MISSING_ROW
from tests.trainer.small_dataset import dataset_of
from trainer.baselines.ease import Ease
from trainer.config.train_config import ItemItemConfig
from trainer.sources.item_item.fit import fit_item_item, fit_item_knn

NUM_ITEMS = 30
GENERATOR = np.random.default_rng(0)
# No user chooses the last three items.
DATASET = dataset_of([GENERATOR.permutation(NUM_ITEMS - 3)[:8].tolist() for _ in range(60)], num_items=NUM_ITEMS)


def test_the_strongest_weights_of_each_item_are_kept_highest_first() -> None:
    config = ItemItemConfig(l2=(20.0,), dropout=(0.0,), num_neighbours=(6,))
    item_item = fit_item_item(DATASET, DATASET.lengths, config)
    assert item_item is not None
    learned = Ease(l2=20.0).weights_of(DATASET)
    assert item_item.rows.shape == item_item.weights.shape == (NUM_ITEMS, 6)
    assert (np.diff(item_item.weights.astype(np.float32), axis=1) <= 0).all()
    for row, item in enumerate(learned.items):
        kept = set(item_item.rows[item].tolist())
        assert kept == set(learned.items[np.argsort(-np.abs(learned.weights[row]))[:6]].tolist())
        kept_weights = learned.weights[row][np.searchsorted(learned.items, item_item.rows[item])]
        np.testing.assert_allclose(item_item.weights[item], kept_weights, atol=1e-3)


def test_unchosen_items_have_no_neighbours_and_are_no_neighbours() -> None:
    item_item = fit_item_item(DATASET, DATASET.lengths, ItemItemConfig())
    assert item_item is not None
    assert (item_item.rows[-3:] == MISSING_ROW).all()
    assert not item_item.weights[-3:].any()
    assert item_item.rows.max() < NUM_ITEMS - 3


def test_only_the_first_events_are_learned_from() -> None:
    half = fit_item_item(DATASET, DATASET.lengths // 2, ItemItemConfig())
    whole = fit_item_item(DATASET.first_events(DATASET.lengths // 2), DATASET.lengths, ItemItemConfig())
    assert half is not None
    assert whole is not None
    assert half.weights.tolist() == whole.weights.tolist()


def test_a_large_catalogue_keeps_nearest_neighbours_in_place_of_the_closed_form() -> None:
    config = ItemItemConfig(max_items=NUM_ITEMS - 1, num_neighbours=(6,))
    assert fit_item_item(DATASET, DATASET.lengths, config) is None
    kept = fit_item_knn(DATASET, DATASET.lengths, config)
    assert kept.rows.shape == (NUM_ITEMS, 6)
    assert (kept.weights[kept.rows != MISSING_ROW] > 0).all()
    assert (kept.rows[-3:] == MISSING_ROW).all()
