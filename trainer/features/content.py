"""Content vectors: what texts and categories say of items, as short vectors whose inner product is a similarity.

Text embeddings and TF-IDF weighted categories are joined and reduced by PCA without centering, through the matrix of
second moments: it is as wide as the features, however many items there are, and numpy decomposes it. A sparse SVD would
need another library for a matrix of a few thousand columns. Without centering, an item of which nothing is known stays
zero.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from trainer.config import ContentConfig

MAX_MOMENT_ITEMS = 50_000
"""Items from which the components are learned; all of a larger catalogue would take minutes and tell nothing more."""
_BATCH_ITEMS = 4_096
# An item with less of its length left after the reduction is known by rounding errors alone.
_MIN_LENGTH_LEFT = 1e-3
# Components below this share of the largest are rounding errors.
_MIN_RELATIVE_EIGENVALUE = 1e-9


def content_vectors(
    categories: Sequence[Sequence[str]],
    known_categories: Sequence[str],
    text_embeddings: npt.NDArray[np.float32],
    config: ContentConfig,
) -> npt.NDArray[np.float16] | None:
    """Content vectors of all items: (items, at most config.dim) float16 of length 1, or zero where nothing is known.

    `categories` are those of each item, of which the ones outside `known_categories` are left out; `text_embeddings` is
    (items, text_dim) float32, zero for an item without text, and text_dim is 0 for a catalogue without. Returns None
    where nothing is known of any item. A category that every item has counts as nothing: it tells none apart.
    """
    features = _Features(
        text=text_embeddings,
        categories=_tf_idf(categories, known_categories),
        text_scale=float(np.sqrt(1.0 - config.category_weight)),
        category_scale=float(np.sqrt(config.category_weight)),
    )
    components = _principal_components(features, config.dim)
    if components.shape[1] == 0:
        return None
    vectors = np.empty((len(categories), components.shape[1]), dtype=np.float16)
    for rows in _batches(np.arange(len(categories))):
        reduced = features.dense(rows) @ components
        lengths = np.linalg.norm(reduced, axis=1, keepdims=True)
        vectors[rows] = np.where(lengths < _MIN_LENGTH_LEFT, 0.0, reduced / np.maximum(lengths, _MIN_LENGTH_LEFT))
    return vectors


@dataclass(frozen=True, kw_only=True)
class _Categories:
    """TF-IDF weights of the categories of each item, sparse: item i has the entries starts[i] to starts[i + 1]."""

    starts: npt.NDArray[np.int64]
    codes: npt.NDArray[np.int64]
    weights: npt.NDArray[np.float32]
    num_codes: int


@dataclass(frozen=True, kw_only=True)
class _Features:
    """Text embedding and categories of each item, side by side; each of length `*_scale` or zero."""

    text: npt.NDArray[np.float32]
    categories: _Categories
    text_scale: float
    category_scale: float

    @property
    def width(self) -> int:
        return int(self.text.shape[1]) + self.categories.num_codes

    def dense(self, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        """Features of items, (n,) int64 -> (n, width) float32."""
        text_dim = self.text.shape[1]
        dense = np.zeros((len(rows), self.width), dtype=np.float32)
        dense[:, :text_dim] = self.text[rows]
        counts = self.categories.starts[rows + 1] - self.categories.starts[rows]
        places = np.repeat(np.arange(len(rows)), counts)
        first = np.repeat(np.cumsum(counts) - counts, counts)
        entries = np.repeat(self.categories.starts[rows], counts) + np.arange(len(places)) - first
        dense[places, text_dim + self.categories.codes[entries]] = self.categories.weights[entries]
        _scale_rows(dense[:, :text_dim], self.text_scale)
        _scale_rows(dense[:, text_dim:], self.category_scale)
        return dense


def _tf_idf(categories: Sequence[Sequence[str]], known_categories: Sequence[str]) -> _Categories:
    code_of = {name: code for code, name in enumerate(known_categories)}
    per_item = [sorted({code_of[name] for name in names if name in code_of}) for names in categories]
    codes = np.array([code for item in per_item for code in item], dtype=np.int64)
    starts = np.concatenate([[0], np.cumsum([len(item) for item in per_item], dtype=np.int64)])
    num_items_with = np.bincount(codes, minlength=len(known_categories))
    weights = np.log((1.0 + len(categories)) / (1.0 + num_items_with)).astype(np.float32)
    return _Categories(starts=starts, codes=codes, weights=weights[codes], num_codes=len(known_categories))


def _principal_components(features: _Features, dim: int) -> npt.NDArray[np.float32]:
    """The directions that hold most of the features' length: (width, at most dim) float32, best first."""
    num_items = len(features.text)
    moment = np.zeros((features.width, features.width), dtype=np.float64)
    sample = np.sort(np.random.default_rng(0).permutation(num_items)[:MAX_MOMENT_ITEMS])
    for rows in _batches(sample):
        batch = features.dense(rows)
        moment += batch.T @ batch
    values, directions = np.linalg.eigh(moment)  # ascending
    kept = values > _MIN_RELATIVE_EIGENVALUE * max(values.max(initial=0.0), np.finfo(np.float64).tiny)
    return np.ascontiguousarray(directions[:, kept][:, ::-1][:, :dim], dtype=np.float32)


def _scale_rows(block: npt.NDArray[np.float32], length: float) -> None:
    """Gives every row of a block that is not zero the same length, in place."""
    lengths = np.linalg.norm(block, axis=1, keepdims=True)
    np.divide(block * np.float32(length), lengths, out=block, where=lengths > 0.0)


def _batches(rows: npt.NDArray[np.int64]) -> Iterator[npt.NDArray[np.int64]]:
    for start in range(0, len(rows), _BATCH_ITEMS):
        yield rows[start : start + _BATCH_ITEMS]
