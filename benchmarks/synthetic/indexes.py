"""FAISS indexes of synthetic catalogues: trained on a sample, filled in chunks, measured."""

from __future__ import annotations

from typing import Any, Final

import faiss
import numpy as np
import numpy.typing as npt

from tandem.contract.vocabulary import Rows

GOLDEN_K: Final = 10

_GOLDEN_QUERIES: Final = 16
_POINTS_PER_CENTROID: Final = 64
_CHUNK: Final = 100_000


def build_index(kind: str, vectors: npt.NDArray[np.float32], *, seed: int) -> faiss.IndexIVF:
    """An inner-product index of `vectors`; `kind` is a FAISS factory string of an IVF index."""
    index: Any = faiss.index_factory(vectors.shape[1], kind, faiss.METRIC_INNER_PRODUCT)
    index.cp.min_points_per_centroid = 1  # no warning: a tiny catalogue is intended here
    index.cp.max_points_per_centroid = _POINTS_PER_CENTROID
    rng = np.random.default_rng(seed)
    sample = rng.permutation(len(vectors))[: _POINTS_PER_CENTROID * index.nlist]
    index.train(vectors[np.sort(sample)])
    for start in range(0, len(vectors), _CHUNK):
        index.add(vectors[start : start + _CHUNK])
    return index


def exact_top(vectors: npt.NDArray[np.float32], queries: npt.NDArray[np.float32], k: int) -> Rows:
    """Rows of the k items with the largest dot product for each query, best first: (queries, k) int64."""
    flat = faiss.IndexFlatIP(vectors.shape[1])
    flat.add(vectors)
    rows: Rows = flat.search(queries, k)[1]
    return rows


def smallest_nprobe(
    index: faiss.IndexIVF, queries: npt.NDArray[np.float32], exact: Rows, min_recall: float
) -> tuple[int, float]:
    """The smallest nprobe with which the index finds `min_recall` of the exact rows (queries, k), and its recall.

    Recall grows with nprobe, so this is a binary search. Raises ValueError if a search of all lists does not reach it.
    """

    def recall(nprobe: int) -> float:
        _, found = index.search(queries, exact.shape[1], params=faiss.SearchParametersIVF(nprobe=nprobe))
        hits = sum(len(np.intersect1d(rows, exact_rows)) for rows, exact_rows in zip(found, exact, strict=True))
        return hits / exact.size

    high, best = 1, recall(1)
    while best < min_recall:
        if high == index.nlist:
            raise ValueError(f"recall of all lists is {best:.4f}, below {min_recall}")
        high = min(2 * high, index.nlist)
        best = recall(high)
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        if (found := recall(middle)) >= min_recall:
            high, best = middle, found
        else:
            low = middle
    return high, best


def golden_queries(index: faiss.IndexIVF, queries: npt.NDArray[np.float32], exact: Rows) -> Rows:
    """Indices of the queries with the highest recall@10 when the index searches all lists: (n,) int64, n at most 16.

    The server refuses a bundle whose index misses one golden answer in a hundred, and a quantised index misses some.
    """
    k = min(GOLDEN_K, exact.shape[1])
    num_queries = min(4 * _GOLDEN_QUERIES, len(queries))
    all_lists = faiss.SearchParametersIVF(nprobe=index.nlist)
    _, found = index.search(queries[:num_queries], k, params=all_lists)
    hits = [len(np.intersect1d(found[query], exact[query, :k])) for query in range(num_queries)]
    return np.argsort(-np.array(hits), kind="stable")[:_GOLDEN_QUERIES]
