"""The FAISS IVF index over item vectors, its measured recall, and nearest neighbours among items.

The only module of the trainer that imports FAISS.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import numpy.typing as npt

from tandem.contract.manifest import IndexSpec
from tandem.contract.recall import recall_of
from tandem.contract.vocabulary import MISSING_ROW
from trainer.config.train_config import IndexConfig
from trainer.core.errors import ExportError

RECALL_AT = 100
MAX_EXACT_NEIGHBOUR_ITEMS = 50_000
"""Largest catalogue whose content neighbours are found exactly: the cost grows with its square."""
_NEIGHBOUR_NPROBE = 16
_NEIGHBOUR_VECTORS_PER_LIST = 64  # from which k-means learns; FAISS's own 256 would take most of the time
_MIN_VECTORS_PER_LIST = 39  # below this FAISS warns that its k-means has too little to learn from


@dataclass(frozen=True, kw_only=True)
class IndexPoint:
    """Recall and latency of an index at one nprobe."""

    nprobe: int
    recall_at_100: float
    """See `tandem.contract.recall`."""
    p50_us: float
    """Microseconds of one search, the median; one query at a time on one thread."""
    p99_us: float
    """Microseconds that 99 % of the searches stay below."""


@dataclass(frozen=True)
class BuiltIndex:
    """An index on disk."""

    path: Path
    spec: IndexSpec


def build_index(
    item_vectors: npt.NDArray[np.float32], queries: npt.NDArray[np.float32], config: IndexConfig, path: Path
) -> BuiltIndex:
    """Trains an inner-product IVF index, and picks the smallest nprobe with the recall asked for.

    item_vectors is (items, dim), queries (queries, dim): vectors of real users, since those are what the index will be
    asked. Trains on a GPU where FAISS has one. Raises ExportError when searching every list does not reach the recall.
    """
    num_items, dim = item_vectors.shape
    num_lists = max(1, min(round(4 * math.sqrt(num_items)), num_items // _MIN_VECTORS_PER_LIST))
    kind = f"IVF{num_lists},{'SQ8' if num_items >= config.quantise_from_items else 'Flat'}"
    index: Any = faiss.index_factory(dim, kind, faiss.METRIC_INNER_PRODUCT)
    _train(index, item_vectors)
    index.add(item_vectors)
    exact = exact_top(queries, item_vectors, min(RECALL_AT, num_items))
    for nprobe in _nprobes(num_lists):
        index.nprobe = nprobe
        found = index.search(queries, exact.shape[1])[1]
        recall = recall_of(found, exact, queries, item_vectors)
        if recall >= config.min_recall_at_100:
            faiss.write_index(index, str(path))
            return BuiltIndex(path, IndexSpec(kind, nprobe, recall))
    raise ExportError(f"index: {kind} reaches recall@{RECALL_AT} {recall:.3f}, {config.min_recall_at_100} asked for")


def recall_and_latency(
    path: Path, queries: npt.NDArray[np.float32], item_vectors: npt.NDArray[np.float32]
) -> tuple[IndexPoint, ...]:
    """What more or fewer lists would cost and bring, for an index on disk and (queries, dim) of real users.

    Searches as serving does, one query at a time on one thread; the figures are those of this machine at this moment.
    """
    index: Any = faiss.read_index(str(path))
    exact = exact_top(queries, item_vectors, min(RECALL_AT, len(item_vectors)))
    threads = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    try:
        points = []
        for nprobe in _nprobes(index.nlist):
            index.nprobe = nprobe
            recall = recall_of(index.search(queries, exact.shape[1])[1], exact, queries, item_vectors)
            p50_us, p99_us = _latency_us(index, queries, exact.shape[1])
            points.append(IndexPoint(nprobe=nprobe, recall_at_100=recall, p50_us=p50_us, p99_us=p99_us))
        return tuple(points)
    finally:
        faiss.omp_set_num_threads(threads)


def _latency_us(index: Any, queries: npt.NDArray[np.float32], k: int) -> tuple[float, float]:
    """Median and 99th percentile of the microseconds of one search, in caches that a search before has warmed."""
    microseconds = np.empty(len(queries))
    for place in range(len(queries)):
        query = queries[place : place + 1]
        started = time.perf_counter_ns()
        index.search(query, k)
        microseconds[place] = (time.perf_counter_ns() - started) / 1e3
    p50, p99 = np.quantile(microseconds, [0.5, 0.99])
    return float(p50), float(p99)


def exact_top(queries: npt.NDArray[np.float32], item_vectors: npt.NDArray[np.float32], k: int) -> npt.NDArray[np.int64]:
    """Rows of the k items with the largest dot product for each query, best first: (queries, k) int64."""
    flat = faiss.IndexFlatIP(item_vectors.shape[1])
    flat.add(item_vectors)
    rows: npt.NDArray[np.int64] = flat.search(queries, k)[1]
    return rows


def inner_products(queries: npt.NDArray[np.float32], item_vectors: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """What a flat index computes, for all items: (queries, dim), (items, dim) -> (queries, items) float32."""
    products: npt.NDArray[np.float32] = faiss.pairwise_distances(queries, item_vectors, faiss.METRIC_INNER_PRODUCT)
    return products


def nearest_items(
    vectors: npt.NDArray[np.float32], k: int, *, max_exact_items: int = MAX_EXACT_NEIGHBOUR_ITEMS
) -> npt.NDArray[np.int32]:
    """Rows of the k other items with the largest inner product for each item of (items, dim), best first.

    An item whose vector is zero has no neighbours and is nobody's. Above `max_exact_items` the search reads the lists
    nearest to each item alone and may miss some. Returns (items, k) int32, MISSING_ROW where there are no more.
    """
    neighbours = np.full((len(vectors), k), MISSING_ROW, dtype=np.int32)
    known = np.flatnonzero(vectors.any(axis=1))
    if len(known) == 0:
        return neighbours
    known_vectors = np.ascontiguousarray(vectors[known])
    index: Any = faiss.IndexFlatIP(vectors.shape[1])
    if len(known) > max_exact_items:
        num_lists = max(1, min(round(4 * math.sqrt(len(known))), len(known) // _MIN_VECTORS_PER_LIST))
        index = faiss.index_factory(vectors.shape[1], f"IVF{num_lists},Flat", faiss.METRIC_INNER_PRODUCT)
        index.cp.max_points_per_centroid = _NEIGHBOUR_VECTORS_PER_LIST
        _train(index, known_vectors)
        index.nprobe = _NEIGHBOUR_NPROBE
    index.add(known_vectors)
    found: npt.NDArray[np.int64] = index.search(known_vectors, k + 1)[1]
    found[found == np.arange(len(known))[:, None]] = MISSING_ROW
    # Itself an item finds anywhere among its equals, so its place is closed up instead of cutting off the first.
    order = np.argsort(found == MISSING_ROW, axis=1, kind="stable")[:, :k]
    places = np.take_along_axis(found, order, axis=1)
    neighbours[known] = np.where(places == MISSING_ROW, MISSING_ROW, known[places])
    return neighbours


def _train(index: faiss.Index, vectors: npt.NDArray[np.float32]) -> None:
    """k-means of the lists, on the first GPU where this build of FAISS sees one. Not run on a GPU so far."""
    if not getattr(faiss, "get_num_gpus", lambda: 0)():
        index.train(vectors)
        return
    inverted_lists: Any = faiss.extract_index_ivf(index)
    # FAISS keeps bare pointers to both, so they live in variables until training is over.
    resources = faiss.StandardGpuResources()
    on_gpu = faiss.index_cpu_to_gpu(resources, 0, faiss.IndexFlatIP(vectors.shape[1]))
    inverted_lists.clustering_index = on_gpu
    index.train(vectors)
    inverted_lists.clustering_index = None


def _nprobes(num_lists: int) -> list[int]:
    """1, 2, 4, ... and at last every list."""
    return [*(1 << power for power in range(num_lists.bit_length()) if 1 << power < num_lists), num_lists]
