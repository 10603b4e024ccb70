"""Recall by score: an item with an equal score counts as found, an item with a lower score does not."""

from __future__ import annotations

import numpy as np

from tandem.contract.recall import recall_of
from tandem.contract.vocabulary import MISSING_ROW


def _vectors(count: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, 8)).astype(np.float32)


def test_without_ties_it_is_the_share_of_the_exact_rows() -> None:
    items, queries = _vectors(200, 0), _vectors(20, 1)
    order = np.argsort(-(queries @ items.T), axis=1)
    found = np.concatenate([order[:, 3:10], order[:, 50:53]], axis=1)
    assert recall_of(order[:, :10], order[:, :10], queries, items) == 1.0
    assert recall_of(found, order[:, :10], queries, items) == 0.7


def test_equal_items_count_alike_and_none_twice() -> None:
    items = np.array([[1, 0], [1, 0], [1, 0], [0, 1]], dtype=np.float32)
    query = np.array([[1.0, 0.1]], dtype=np.float32)
    exact = np.array([[0, 1]])
    assert recall_of(np.array([[2, 1]]), exact, query, items) == 1.0
    assert recall_of(np.array([[2, 2]]), exact, query, items) == 0.5
    assert recall_of(np.array([[2, 3]]), exact, query, items) == 0.5
    assert recall_of(np.array([[0, 1, 2]]), exact, query, items) == 1.0


def test_missing_rows_are_not_found() -> None:
    items, queries = _vectors(30, 2), _vectors(3, 3)
    exact = np.argsort(-(queries @ items.T), axis=1)[:, :5]
    found = exact.copy()
    found[:, 0] = MISSING_ROW
    assert recall_of(found, exact, queries, items) == 0.8
    assert recall_of([rows[:0] for rows in exact], exact, queries, items) == 0.0
    assert recall_of([rows[:2] for rows in exact], exact, queries, items) == 0.4


def test_rounding_is_no_miss_and_a_worse_item_is_one() -> None:
    item = _vectors(1, 4)
    query = item.copy()
    nearly, worse = np.nextafter(item, np.float32(0.0)), item * np.float32(1 - 1e-4)
    items = np.concatenate([item, nearly, worse])
    assert recall_of(np.array([[1]]), np.array([[0]]), query, items) == 1.0
    assert recall_of(np.array([[2]]), np.array([[0]]), query, items) == 0.0
