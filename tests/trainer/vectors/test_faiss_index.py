import faiss
import numpy as np
import pytest

from tandem.contract.recall import recall_of
from trainer.config.train_config import IndexConfig
from trainer.core.errors import ExportError
from trainer.vectors.faiss_index import build_index, exact_top, nearest_items, recall_and_latency


def _vectors(count, dim, seed):
    return np.random.default_rng(seed).normal(size=(count, dim)).astype(np.float32)


@pytest.mark.parametrize("count", [1, 30, 2_000])
def test_recall_is_measured_and_reached(tmp_path, count) -> None:
    items, queries = _vectors(count, 16, 0), _vectors(64, 16, 1)
    built = build_index(items, queries, IndexConfig(min_recall_at_100=0.95), tmp_path / "index.faiss")
    assert built.spec.recall_at_100 >= 0.95
    index = faiss.read_index(str(built.path))
    assert index.ntotal == count
    index.nprobe = built.spec.nprobe
    k = min(100, count)
    found = index.search(queries, k)[1]
    assert recall_of(found, exact_top(queries, items, k), queries, items) == built.spec.recall_at_100


def test_recall_does_not_depend_on_which_of_equal_items_is_found(tmp_path) -> None:
    items, queries = np.repeat(_vectors(40, 16, 0), 25, axis=0), _vectors(64, 16, 1)
    items = items[np.random.default_rng(2).permutation(len(items))]
    built = build_index(items, queries, IndexConfig(min_recall_at_100=1.0), tmp_path / "index.faiss")
    assert built.spec.recall_at_100 == 1.0
    assert recall_and_latency(built.path, queries, items)[-1].recall_at_100 == 1.0


def test_exact_top_is_brute_force() -> None:
    items, queries = _vectors(300, 8, 2), _vectors(5, 8, 3)
    assert exact_top(queries, items, 7).tolist() == np.argsort(-(queries @ items.T), axis=1)[:, :7].tolist()


def test_a_quantised_index_that_misses_its_recall_is_refused(tmp_path) -> None:
    items = _vectors(500, 16, 0) * 1e-3 + 1.0  # nearly equal vectors: 8 bits cannot tell them apart
    config = IndexConfig(min_recall_at_100=1.0, quantise_from_items=1)
    with pytest.raises(ExportError, match="recall@100"):
        build_index(items, _vectors(64, 16, 1), config, tmp_path / "index.faiss")


def test_recall_and_latency_of_every_nprobe(tmp_path) -> None:
    items, queries = _vectors(2_000, 16, 0), _vectors(64, 16, 1)
    built = build_index(items, queries, IndexConfig(), tmp_path / "index.faiss")
    threads = faiss.omp_get_max_threads()
    points = recall_and_latency(built.path, queries, items)
    assert faiss.omp_get_max_threads() == threads
    assert [point.nprobe for point in points] == [1, 2, 4, 8, 16, 32, 51]
    recalls = [point.recall_at_100 for point in points]
    assert recalls == sorted(recalls)
    assert recalls[-1] == 1.0
    assert {point.nprobe: point.recall_at_100 for point in points}[built.spec.nprobe] == built.spec.recall_at_100
    assert all(0 < point.p50_us <= point.p99_us for point in points)


def test_neighbours_are_brute_force() -> None:
    items = _vectors(150, 8, 4)
    items[[3, 77]] = 0.0  # no content
    similar = items @ items.T
    np.fill_diagonal(similar, -np.inf)
    similar[:, [3, 77]] = -np.inf
    expected = np.argsort(-similar, axis=1)[:, :20]
    expected[[3, 77]] = -1
    found = nearest_items(items, 20)
    assert found.dtype == np.int32
    assert found.tolist() == expected.tolist()


def test_neighbours_of_few_items_are_filled_up_with_missing_rows() -> None:
    items = np.array([[1, 0], [0.8, 0.6], [0, 0], [0, 1]], dtype=np.float32)
    assert nearest_items(items, 4).tolist() == [[1, 3, -1, -1], [0, 3, -1, -1], [-1] * 4, [1, 0, -1, -1]]
    assert nearest_items(np.zeros((2, 3), np.float32), 2).tolist() == [[-1, -1]] * 2


def test_items_with_many_equal_vectors_are_never_their_own_neighbours() -> None:
    found = nearest_items(np.ones((40, 4), np.float32), 5)
    assert (found >= 0).all()
    assert (found != np.arange(40)[:, None]).all()


def test_neighbours_in_lists_find_most_of_the_exact_ones() -> None:
    items = _vectors(4_000, 16, 5)
    exact, found = nearest_items(items, 10), nearest_items(items, 10, max_exact_items=1_000)
    assert (found != np.arange(4_000)[:, None]).all()
    assert (
        recall_of(found.astype(np.int64), exact.astype(np.int64), items, items) > 0.6
    )  # random vectors: the hardest case
