"""Scores of the item-item source, compared with a slow sum."""

from __future__ import annotations

import numpy as np
import pytest

from tandem.contract.item_item import ItemItem, item_item_scores, num_events_read, reads_whole_history
from tandem.contract.store import MAX_RECENT_EVENTS
from tandem.contract.vocabulary import MISSING_ROW

NUM_ITEMS = 12
GENERATOR = np.random.default_rng(0)


def _model() -> ItemItem:
    rows = np.array([GENERATOR.permutation(NUM_ITEMS)[:4] for _ in range(NUM_ITEMS)], dtype=np.int32)
    weights = -np.sort(-GENERATOR.normal(size=rows.shape), axis=1)
    rows[3, 2:], weights[3, 2:] = MISSING_ROW, 0.0
    return ItemItem(rows, weights.astype(np.float16))


@pytest.mark.parametrize("decay_events", [0.5, 3.0, 1000.0])
def test_scores_are_the_decayed_sum_over_the_history(decay_events: float) -> None:
    model = _model()
    history = np.array([[MISSING_ROW, MISSING_ROW, 3, 7], [1, 3, MISSING_ROW, 2], [MISSING_ROW] * 4])
    expected = np.zeros((3, NUM_ITEMS))
    for user, events in enumerate(history):
        for age, item in enumerate(events[::-1]):
            for neighbour, weight in zip(model.rows[item], model.weights[item], strict=True):
                if item != MISSING_ROW and neighbour != MISSING_ROW:
                    expected[user, neighbour] += float(weight) * np.exp(-age / decay_events)
    scores = item_item_scores(model, history, decay_events)
    np.testing.assert_allclose(scores, expected, atol=0.03)  # events below a hundredth of the newest are not read
    assert not scores[2].any()
    candidates = GENERATOR.integers(0, NUM_ITEMS, (3, 6))
    candidate_scores = item_item_scores(model, history, decay_events, candidates)
    assert candidate_scores.tolist() == np.take_along_axis(scores, candidates, axis=1).tolist()


def test_a_decay_so_slow_that_all_events_count_alike_reads_what_the_store_keeps() -> None:
    assert num_events_read(2.0) == 10
    assert num_events_read(1e6) == MAX_RECENT_EVENTS
    model = _model()
    (scores,) = item_item_scores(model, np.array([[3, 7, 1, 2]]), 1e6)
    (reversed_scores,) = item_item_scores(model, np.array([[2, 1, 7, 3]]), 1e6)
    np.testing.assert_allclose(scores, reversed_scores, atol=1e-3)


def test_items_before_the_history_weigh_as_the_oldest_event_that_a_state_keeps() -> None:
    model = _model()
    history = np.array([[MISSING_ROW, 3, 7], [MISSING_ROW, MISSING_ROW, 1], [2, 4, 6]])
    older = [np.array([2, 5]), np.array([], dtype=np.int64), np.array([0, 1, 3, 5])]
    decay_events = 1000.0
    expected = item_item_scores(model, history, decay_events).astype(np.float64)
    oldest = np.exp(-(MAX_RECENT_EVENTS - 1) / decay_events)
    for user, items in enumerate(older):
        for item in items:
            for neighbour, weight in zip(model.rows[item], model.weights[item], strict=True):
                if neighbour != MISSING_ROW:
                    expected[user, neighbour] += float(weight) * oldest
    scores = item_item_scores(model, history, decay_events, older_rows=older)
    np.testing.assert_allclose(scores, expected, atol=1e-5)
    (alone,) = item_item_scores(model, history[2:], decay_events, older_rows=older[2:])
    assert alone.tolist() == scores[2].tolist(), "no score depends on the batch"
    assert reads_whole_history(1000.0)
    assert not reads_whole_history(30.0)


def test_a_large_batch_scores_as_its_users_do_alone() -> None:
    model = _model()
    history = GENERATOR.integers(-1, NUM_ITEMS, (700, 150))
    scores = item_item_scores(model, history, 60.0)
    for user in (0, 1, 436, 437, 699):
        assert scores[user].tolist() == item_item_scores(model, history[user : user + 1], 60.0)[0].tolist()
