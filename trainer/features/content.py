"""Content vectors: texts and categories of items as short vectors whose inner product is a similarity.

Words and categories are weighted by TF-IDF and reduced by a truncated SVD. With a text encoder, they are joined with
its embeddings and reduced again. Nothing is centred, so the vector of an item without content stays zero. The only
module that imports scikit-learn.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy import sparse

from trainer.config.train_config import ContentConfig
from trainer.dataset.dataset import Catalogue

MAX_TERMS = 50_000
"""Most words and categories that are read: those in the most items."""
TF_IDF_DIM = 512
"""Width to which TF-IDF is reduced before anything is joined to it."""
MAX_FIT_ITEMS = 50_000
"""Most items from which the directions of a reduction are learned."""
_BATCH_ITEMS = 4_096
_WORD = re.compile(r"\w\w+")
# An item with less than this length left after a reduction has only rounding errors.
_MIN_LENGTH_LEFT = 1e-3
# Directions with less than this share of the largest singular value are rounding errors.
_MIN_RELATIVE_SINGULAR_VALUE = 1e-3


def content_vectors(
    catalogue: Catalogue, text_embeddings: npt.NDArray[np.float32], config: ContentConfig
) -> npt.NDArray[np.float16] | None:
    """Content vectors of all items: (items, at most config.dim) float16 of length 1, or zero for items without content.

    `text_embeddings` is (items, text_dim) float32, zero for an item without text; text_dim is 0 without an encoder, and
    then only words and categories are read. Returns None if no item has content. A word or category that every item has
    is ignored: it distinguishes no items.
    """
    terms = tf_idf(catalogue)
    if text_embeddings.shape[1] == 0:
        vectors = reduced(terms, config.dim)
    else:
        term_vectors = reduced(terms, TF_IDF_DIM)
        joined = np.empty((len(catalogue), text_embeddings.shape[1] + term_vectors.shape[1]), dtype=np.float32)
        joined[:, : text_embeddings.shape[1]] = _unit(text_embeddings) * math.sqrt(1.0 - config.tf_idf_weight)
        joined[:, text_embeddings.shape[1] :] = term_vectors * math.sqrt(config.tf_idf_weight)
        vectors = reduced(joined, config.dim)
    return vectors.astype(np.float16) if vectors.any() else None


def tf_idf(catalogue: Catalogue) -> sparse.csr_matrix:
    """TF-IDF of the words of titles and descriptions, and of categories: (items, terms) float32, of length 1 or zero.

    Returns (items, 0) if no term distinguishes items.
    """
    # The import takes a second, which a command without content should not pay.
    from sklearn.feature_extraction.text import TfidfVectorizer

    rows = range(len(catalogue))
    num_items_with = Counter(term for row in rows for term in set(_terms(catalogue, row)))
    vocabulary = [term for term, count in num_items_with.most_common() if count < len(catalogue)][:MAX_TERMS]
    if not vocabulary:
        return sparse.csr_matrix((len(catalogue), 0), dtype=np.float32)
    vectorizer = TfidfVectorizer(
        analyzer=lambda row: _terms(catalogue, row), vocabulary=sorted(vocabulary), lowercase=False, dtype=np.float32
    )
    return vectorizer.fit_transform(rows)


def reduced(features: npt.NDArray[np.float32] | sparse.csr_matrix, dim: int) -> npt.NDArray[np.float32]:
    """Projects the rows of `features`, (items, width), on their strongest directions: (items, at most dim) float32.

    Each direction is divided by the square root of its singular value, so that strong directions do not dominate. Each
    row has length 1, or is zero if next to nothing of it is left. Features no wider than `dim` are only scaled.
    """
    from sklearn.decomposition import TruncatedSVD

    num_items, width = features.shape
    if width <= dim:
        return _unit(features if isinstance(features, np.ndarray) else features.toarray())
    sample = np.sort(np.random.default_rng(0).permutation(num_items)[:MAX_FIT_ITEMS])
    svd = TruncatedSVD(dim, random_state=0).fit(features[sample])
    kept = svd.singular_values_ > _MIN_RELATIVE_SINGULAR_VALUE * svd.singular_values_.max()
    # Undivided, the directions that most items share would dominate, and particular content would count for nothing;
    # divided by the whole singular value, the noise of the weakest directions would dominate. See decision 0022.
    scale = np.sqrt(svd.singular_values_.max() / svd.singular_values_[kept])
    directions = (svd.components_[kept] * scale[:, None]).T.astype(np.float32)
    vectors = np.empty((num_items, directions.shape[1]), dtype=np.float32)
    for start in range(0, num_items, _BATCH_ITEMS):
        vectors[start : start + _BATCH_ITEMS] = features[start : start + _BATCH_ITEMS] @ directions
    return _unit(vectors)


def _terms(catalogue: Catalogue, row: int) -> Sequence[str]:
    words = _WORD.findall(f"{catalogue.titles[row]} {catalogue.descriptions[row]}".lower())
    # A category and a word with the same spelling are different terms.
    return [*words, *(f"category: {name}" for name in catalogue.categories[row])]


def _unit(rows: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    unit: npt.NDArray[np.float32] = np.where(
        lengths < _MIN_LENGTH_LEFT, np.float32(0.0), rows / np.maximum(lengths, np.float32(_MIN_LENGTH_LEFT))
    )
    return unit
