"""EASE and EDLAE, against their formulas."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import sparse

from trainer.models import ease
from trainer.models.ease import CoOccurrence, ease_weights

GENERATOR = np.random.default_rng(0)
MATRIX = (GENERATOR.random((60, 15)) < 0.3).astype(np.float32)
MATRIX[:, 4] = 0.0
KNOWN = np.flatnonzero(MATRIX.any(axis=0))


def _expected(l2: float, dropout: float) -> np.ndarray:
    """The denoising form: the expected squared error under dropout has this minimum, with a diagonal of 0."""
    gram = MATRIX[:, KNOWN].T.astype(np.float64) @ MATRIX[:, KNOWN]
    regularised = gram + l2 * np.eye(len(KNOWN)) + dropout / (1.0 - dropout) * np.diag(np.diag(gram))
    inverse = np.linalg.inv(regularised)
    weights = np.eye(len(KNOWN)) - inverse / np.diag(inverse)
    np.fill_diagonal(weights, 0.0)
    return weights


@pytest.mark.parametrize("dropout", [0.0, 0.33, 0.5])
def test_the_weights_are_the_closed_form(dropout: float) -> None:
    learned = CoOccurrence.of(sparse.csr_matrix(MATRIX)).weights(5.0, dropout=dropout)
    assert learned.items.tolist() == KNOWN.tolist()
    np.testing.assert_allclose(learned.weights, _expected(5.0, dropout), atol=1e-6)


def test_no_dropout_is_ease() -> None:
    learned = ease_weights(sparse.csr_matrix(MATRIX), 5.0)
    np.testing.assert_allclose(learned.weights, _expected(5.0, 0.0), atol=1e-6)


def test_large_matrices_are_inverted_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ease, "FLOAT32_FROM_ITEMS", 2)
    counted = CoOccurrence.of(sparse.csr_matrix(MATRIX))
    assert counted.gram.dtype == np.float32
    np.testing.assert_allclose(counted.weights(5.0, dropout=0.33).weights, _expected(5.0, 0.33), atol=1e-5)


def test_a_matrix_that_is_not_positive_definite_is_an_error() -> None:
    with pytest.raises(ValueError, match="l2 must be greater than 0"):
        CoOccurrence.of(sparse.csr_matrix(np.ones((3, 3), dtype=np.float32))).weights(0.0)
