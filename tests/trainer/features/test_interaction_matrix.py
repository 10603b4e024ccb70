import numpy as np
import pytest

from tests.trainer.small_dataset import dataset_of
from trainer.features.interaction_matrix import interaction_matrix


def test_it_is_binary_with_a_row_for_every_user() -> None:
    matrix = interaction_matrix(dataset_of([[2, 0], [], [1]], num_items=4))
    assert matrix.dtype == np.float32
    assert matrix.has_sorted_indices
    assert matrix.toarray().tolist() == [[1, 0, 1, 0], [0, 0, 0, 0], [0, 1, 0, 0]]


def test_recency_counts_newer_events_of_the_user() -> None:
    matrix = interaction_matrix(dataset_of([[2, 0, 1], [1]], num_items=3), recency_tau=2.0).toarray()
    assert matrix[0] == pytest.approx([np.exp(-0.5), 1.0, np.exp(-1.0)])
    assert matrix[1] == pytest.approx([0.0, 1.0, 0.0])


def test_a_repeated_pair_has_its_largest_weight() -> None:
    dataset = dataset_of([[1, 0, 1, 0, 1]], num_items=2)
    assert interaction_matrix(dataset).toarray().tolist() == [[1, 1]]
    assert interaction_matrix(dataset, recency_tau=1.0).toarray()[0] == pytest.approx([np.exp(-1.0), 1.0])
    weights = np.array([1, 2, 5, 1, 3], np.float32)
    assert interaction_matrix(dataset, event_weights=weights).toarray().tolist() == [[2, 5]]


def test_no_events_are_an_empty_matrix() -> None:
    assert interaction_matrix(dataset_of([[], []], num_items=3)).shape == (2, 3)
