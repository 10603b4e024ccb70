"""Neighbours by cosine and by what follows, against slow sums."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import sparse

from tests.trainer.small_dataset import dataset_of
from trainer.features.interaction_matrix import interaction_matrix
from trainer.models import item_knn
from trainer.models.item_knn import largest_of_rows, similarities_of_followers, similarities_of_items
from trainer.sources.base.strongest import strongest_of_ranges

NUM_ITEMS = 11
GENERATOR = np.random.default_rng(0)
HISTORIES = [GENERATOR.permutation(NUM_ITEMS - 1)[:length].tolist() for length in (8, 3, 1, 10, 6, 7)]
DATASET = dataset_of(HISTORIES, num_items=NUM_ITEMS)
NUM_NEIGHBOURS = 4


@pytest.fixture(autouse=True)
def _short_ranges(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(item_knn, "_BATCH_ITEMS", 3)
    monkeypatch.setattr(item_knn, "_BATCH_EVENTS", 10)


def _assert_largest(ranges, expected: np.ndarray) -> None:
    """That the kept neighbours are the largest entries of each row of `expected`, above 0."""
    kept = strongest_of_ranges(ranges, num_items=NUM_ITEMS, num_neighbours=NUM_NEIGHBOURS)
    for row in range(NUM_ITEMS):
        order = np.argsort(-expected[row], kind="stable")[:NUM_NEIGHBOURS]
        order = order[expected[row][order] > 0]
        assert kept.rows[row].tolist() == [*order.tolist(), *[-1] * (NUM_NEIGHBOURS - len(order))]
        np.testing.assert_allclose(kept.weights[row, : len(order)], expected[row][order], atol=1e-3)
        assert not kept.weights[row, len(order) :].any()


def test_neighbours_by_cosine_with_shrinkage() -> None:
    matrix = interaction_matrix(DATASET)
    counts = (matrix.T @ matrix).toarray()
    squares = np.diag(counts)
    expected = counts / (np.sqrt(squares[:, None] * squares) + 2.0)
    np.fill_diagonal(expected, 0.0)
    _assert_largest(similarities_of_items(matrix, 2.0, NUM_NEIGHBOURS), expected)


def test_neighbours_by_what_follows() -> None:
    expected = np.zeros((NUM_ITEMS, NUM_ITEMS))
    for history in HISTORIES:
        for newer in range(len(history)):
            for older in range(newer):
                expected[history[older], history[newer]] += np.exp(-(newer - older - 1) / 3.0)
    events = np.bincount(DATASET.item_rows, minlength=NUM_ITEMS)
    expected /= np.sqrt(events[:, None] * events) + 2.0
    _assert_largest(similarities_of_followers(DATASET, 3.0, 2.0, NUM_NEIGHBOURS), expected)


def test_the_largest_of_a_row_come_first_and_ties_go_to_the_lower_column() -> None:
    matrix = sparse.csr_matrix(np.array([[0.0, 2.0, 5.0, 2.0, 3.0], [0.0] * 5, [1.0, 0.0, 0.0, 0.0, 0.0]]))
    found = largest_of_rows(matrix, 3)
    assert found.indices.tolist() == [2, 4, 1, 0]
    assert found.data.tolist() == [5.0, 3.0, 2.0, 1.0]
    assert found.indptr.tolist() == [0, 3, 3, 4]
