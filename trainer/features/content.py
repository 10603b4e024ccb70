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

MAX_MOMENT_ITEMS = 20_000
"""Items from which the components are learned: many for each feature, while a million would take minutes."""
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
        reduced = features.reduced(rows, components)
        lengths = np.linalg.norm(reduced, axis=1, keepdims=True)
        vectors[rows] = np.where(lengths < _MIN_LENGTH_LEFT, 0.0, reduced / np.maximum(lengths, _MIN_LENGTH_LEFT))
    return vectors


@dataclass(frozen=True, kw_only=True)
class _Categories:
    """TF-IDF weights of the categories of each item, sparse: item i has the entries starts[i] to starts[i + 1]."""

    starts: npt.NDArray[np.int64]
    codes: npt.NDArray[np.int64]
    weights: npt.NDArray[np.float32]
    """Of length 1 for each item, or zero."""
    num_codes: int

    def entries(self, rows: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Entries of items, (n,) int64: the place in `rows` of each, ascending, and which entry it is."""
        counts = self.starts[rows + 1] - self.starts[rows]
        places = np.repeat(np.arange(len(rows)), counts)
        first_of_place = np.cumsum(counts) - counts
        return places, np.arange(len(places)) + np.repeat(self.starts[rows] - first_of_place, counts)


@dataclass(frozen=True, kw_only=True)
class _Features:
    """Text embedding and categories of each item, side by side; each of length `*_scale` or zero."""

    text: npt.NDArray[np.float32]
    categories: _Categories
    text_scale: float
    category_scale: float

    @property
    def text_dim(self) -> int:
        return int(self.text.shape[1])

    def dense(self, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        """Features of items, (n,) int64 -> (n, text_dim + num_codes) float32."""
        dense = np.zeros((len(rows), self.text_dim + self.categories.num_codes), dtype=np.float32)
        dense[:, : self.text_dim] = self._scaled_text(rows)
        places, entries = self.categories.entries(rows)
        codes, weights = self.categories.codes[entries], self.categories.weights[entries]
        dense[places, self.text_dim + codes] = weights * np.float32(self.category_scale)
        return dense

    def reduced(self, rows: npt.NDArray[np.int64], components: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Features of items times components: the same as from `dense`, without its mostly empty columns."""
        reduced: npt.NDArray[np.float32] = self._scaled_text(rows) @ components[: self.text_dim]
        places, entries = self.categories.entries(rows)
        if len(places):
            codes, weights = self.categories.codes[entries], self.categories.weights[entries]
            parts = components[self.text_dim + codes] * (weights * np.float32(self.category_scale))[:, None]
            with_categories, first = np.unique(places, return_index=True)
            reduced[with_categories] += np.add.reduceat(parts, first, axis=0)
        return reduced

    def _scaled_text(self, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        text = self.text[rows]
        lengths = np.linalg.norm(text, axis=1, keepdims=True)
        scale = self.text_scale / np.where(lengths > 0.0, lengths, 1.0)
        return text * scale.astype(np.float32)


def _tf_idf(categories: Sequence[Sequence[str]], known_categories: Sequence[str]) -> _Categories:
    code_of = {name: code for code, name in enumerate(known_categories)}
    per_item = [sorted({code_of[name] for name in names if name in code_of}) for names in categories]
    counts = np.array([len(item) for item in per_item], dtype=np.int64)
    codes = np.array([code for item in per_item for code in item], dtype=np.int64)
    num_items_with = np.bincount(codes, minlength=len(known_categories))
    weights = np.log((1.0 + len(categories)) / (1.0 + num_items_with))[codes]
    items = np.repeat(np.arange(len(categories)), counts)
    lengths = np.sqrt(np.bincount(items, weights=weights**2, minlength=len(categories)))[items]
    return _Categories(
        starts=np.concatenate([[0], np.cumsum(counts)]),
        codes=codes,
        weights=(weights / np.where(lengths > 0.0, lengths, 1.0)).astype(np.float32),
        num_codes=len(known_categories),
    )


def _principal_components(features: _Features, dim: int) -> npt.NDArray[np.float32]:
    """The directions that hold most of the features' length: (width, at most dim) float32, best first."""
    num_items = len(features.text)
    width = features.text_dim + features.categories.num_codes
    moment = np.zeros((width, width), dtype=np.float64)
    sample = np.sort(np.random.default_rng(0).permutation(num_items)[:MAX_MOMENT_ITEMS])
    for rows in _batches(sample):
        batch = features.dense(rows)
        moment += batch.T @ batch
    values, directions = np.linalg.eigh(moment)  # ascending
    kept = values > _MIN_RELATIVE_EIGENVALUE * max(values.max(initial=0.0), np.finfo(np.float64).tiny)
    return np.ascontiguousarray(directions[:, kept][:, ::-1][:, :dim], dtype=np.float32)


def _batches(rows: npt.NDArray[np.int64]) -> Iterator[npt.NDArray[np.int64]]:
    for start in range(0, len(rows), _BATCH_ITEMS):
        yield rows[start : start + _BATCH_ITEMS]
