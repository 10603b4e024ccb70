"""The FAISS IVF index over item vectors, its measured recall, and the nearest neighbours of items.

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
from trainer.core.written_files import written_file

RECALL_AT = 100
MAX_EXACT_NEIGHBOUR_ITEMS = 50_000
"""Maximum number of items for an exact search of content neighbours, whose cost grows with the square."""
_NEIGHBOUR_NPROBE = 16
_NEIGHBOUR_VECTORS_PER_LIST = (
    64  # k-means is trained on them; with FAISS's default of 256, training would take most of the time
)
_MIN_VECTORS_PER_LIST = 39  # with fewer, FAISS warns that k-means has too few training vectors


@dataclass(frozen=True, kw_only=True)
class IndexPoint:
    """Recall and latency of an index at one nprobe."""

    nprobe: int
    recall_at_100: float
    """See `tandem.contract.recall`."""
    p50_us: float
    """Median time of a search in microseconds; one query at a time on one thread."""
    p99_us: float
    """99th percentile of the time of a search in microseconds."""


@dataclass(frozen=True)
class BuiltIndex:
    """An index on disk."""

    path: Path
    spec: IndexSpec


def build_index(
    item_vectors: npt.NDArray[np.float32], queries: npt.NDArray[np.float32], config: IndexConfig, path: Path
) -> BuiltIndex:
    """Trains an inner-product IVF index, and picks the smallest nprobe that reaches the configured recall.

    item_vectors is (items, dim). queries is (queries, dim): vectors of real users, because the index will be searched
    with user vectors. Trains on a GPU if FAISS sees one. Raises ExportError if even a search of all lists does not
    reach the recall.
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
            with written_file(path, RuntimeError):
                faiss.write_index(index, str(path))
            return BuiltIndex(path, IndexSpec(kind, nprobe, recall))
    raise ExportError(f"index: {kind} reaches recall@{RECALL_AT} {recall:.3f}, not {config.min_recall_at_100}")


def recall_and_latency(
    path: Path, queries: npt.NDArray[np.float32], item_vectors: npt.NDArray[np.float32]
) -> tuple[IndexPoint, ...]:
    """Recall and latency of an index on disk at every nprobe, for queries, (queries, dim), of real users.

    Searches as serving does, one query at a time on one thread. Latencies hold for this machine and its present load.
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
    """Median and 99th percentile of the time of a search in microseconds, with caches warm from an earlier search."""
    microseconds = np.empty(len(queries))
    for row in range(len(queries)):
        query = queries[row : row + 1]
        started = time.perf_counter_ns()
        index.search(query, k)
        microseconds[row] = (time.perf_counter_ns() - started) / 1e3
    p50, p99 = np.quantile(microseconds, [0.5, 0.99])
    return float(p50), float(p99)


def exact_top(queries: npt.NDArray[np.float32], item_vectors: npt.NDArray[np.float32], k: int) -> npt.NDArray[np.int64]:
    """Rows of the k items with the largest dot product for each query, best first: (queries, k) int64."""
    flat = faiss.IndexFlatIP(item_vectors.shape[1])
    flat.add(item_vectors)
    rows: npt.NDArray[np.int64] = flat.search(queries, k)[1]
    return rows


def inner_products(queries: npt.NDArray[np.float32], item_vectors: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Inner products with all items, as a flat index computes them: (queries, dim), (items, dim) -> (queries, items)
    float32."""
    products: npt.NDArray[np.float32] = faiss.pairwise_distances(queries, item_vectors, faiss.METRIC_INNER_PRODUCT)
    return products


def nearest_items(
    vectors: npt.NDArray[np.float32], k: int, *, max_exact_items: int = MAX_EXACT_NEIGHBOUR_ITEMS
) -> npt.NDArray[np.int32]:
    """Rows of the k other items with the largest inner product for each item of (items, dim), best first.

    An item whose vector is zero has no neighbours and is no item's neighbour. Above `max_exact_items` items, the search
    reads only the lists nearest to each item and may miss neighbours. Returns (items, k) int32, filled up with
    MISSING_ROW.
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
    # An item finds itself at any position among equal vectors, so the gap is closed; it is not always the first column.
    order = np.argsort(found == MISSING_ROW, axis=1, kind="stable")[:, :k]
    nearest = np.take_along_axis(found, order, axis=1)
    neighbours[known] = np.where(nearest == MISSING_ROW, MISSING_ROW, known[nearest])
    return neighbours


def _train(index: faiss.Index, vectors: npt.NDArray[np.float32]) -> None:
    """Runs k-means for the lists, on the first GPU if this build of FAISS sees one. Never run on a GPU so far."""
    if not getattr(faiss, "get_num_gpus", lambda: 0)():
        index.train(vectors)
        return
    inverted_lists: Any = faiss.extract_index_ivf(index)
    # FAISS keeps bare pointers to both objects, so variables keep them alive until training ends.
    resources = faiss.StandardGpuResources()
    on_gpu = faiss.index_cpu_to_gpu(resources, 0, faiss.IndexFlatIP(vectors.shape[1]))
    inverted_lists.clustering_index = on_gpu
    index.train(vectors)
    inverted_lists.clustering_index = None


def _nprobes(num_lists: int) -> list[int]:
    """1, 2, 4, ... and finally the number of all lists."""
    return [*(1 << power for power in range(num_lists.bit_length()) if 1 << power < num_lists), num_lists]
