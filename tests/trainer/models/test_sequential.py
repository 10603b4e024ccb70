"""The sequential linear model, against the dense formula on rows that are built one by one."""

from __future__ import annotations

import numpy as np
import pytest

from tests.trainer.small_dataset import dataset_of
from trainer.dataset.dataset import Dataset
from trainer.models.sequential import sequential_products, sequential_weights

NUM_ITEMS = 14
GENERATOR = np.random.default_rng(0)
# Users of different lengths, one with a single event and one without any; nobody chooses the last two items.
HISTORIES = [GENERATOR.permutation(NUM_ITEMS - 2)[:length].tolist() for length in (9, 4, 1, 2, 0, 12, 7, 12, 5)]
DATASET = dataset_of(HISTORIES, num_items=NUM_ITEMS)
WEIGHTS = GENERATOR.uniform(0.0, 3.0, len(DATASET.item_rows)).astype(np.float32)


def _rows(dataset: Dataset, decay_events: float, weights: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """H and Y, row by row, each times the root of the weight of its next event."""
    inputs, targets = [], []
    for user in range(len(dataset.user_ids)):
        events = np.arange(dataset.offsets[user], dataset.offsets[user + 1])
        for count in range(1, len(events)):
            history, following = np.zeros(NUM_ITEMS), np.zeros(NUM_ITEMS)
            for age, event in enumerate(events[:count][::-1]):
                history[dataset.item_rows[event]] = np.exp(-age / decay_events)
            following[dataset.item_rows[events[count]]] = 1.0
            root = 1.0 if weights is None else np.sqrt(float(weights[events[count]]))
            inputs.append(root * history)
            targets.append(root * following)
    return np.array(inputs), np.array(targets)


@pytest.mark.parametrize("weights", [None, WEIGHTS], ids=["alike", "weighed"])
@pytest.mark.parametrize("decay_events", [3.0, 50.0])
def test_the_products_are_those_of_decayed_histories(decay_events: float, weights: np.ndarray | None) -> None:
    items = np.unique(DATASET.item_rows)
    inputs, targets = sequential_products(DATASET, items, decay_events=decay_events, event_weights=weights)
    histories, following = (matrix[:, items] for matrix in _rows(DATASET, decay_events, weights))
    np.testing.assert_allclose(inputs, histories.T @ histories, atol=1e-5)
    np.testing.assert_allclose(targets, histories.T @ following, atol=1e-5)


@pytest.mark.parametrize("weights", [None, WEIGHTS], ids=["alike", "weighed"])
def test_the_weights_are_the_closed_form_without_the_diagonal(weights: np.ndarray | None) -> None:
    learned = sequential_weights(DATASET, decay_events=4.0, l2=2.0, event_weights=weights)
    histories, following = _rows(DATASET, 4.0, weights)
    expected = np.linalg.solve(histories.T @ histories + 2.0 * np.eye(NUM_ITEMS), histories.T @ following)
    np.fill_diagonal(expected, 0.0)
    assert learned.items.tolist() == list(range(NUM_ITEMS - 2))
    np.testing.assert_allclose(learned.weights, expected[np.ix_(learned.items, learned.items)], atol=1e-5)


def test_items_that_are_negligible_by_their_age_are_left_out() -> None:
    long = dataset_of([list(range(NUM_ITEMS))], num_items=NUM_ITEMS)
    _, targets = sequential_products(long, np.arange(NUM_ITEMS), decay_events=0.5)
    assert np.flatnonzero(targets[0]).tolist() == [1, 2, 3], "0.5 events after the fourth, e^-6 is below 0.01"
