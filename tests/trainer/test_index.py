import faiss
import numpy as np
import pytest

from trainer.config import IndexConfig
from trainer.errors import ExportError
from trainer.export.index import build_index, exact_top, recall_of


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
    assert recall_of(index.search(queries, k)[1], exact_top(queries, items, k)) == built.spec.recall_at_100


def test_exact_top_is_brute_force() -> None:
    items, queries = _vectors(300, 8, 2), _vectors(5, 8, 3)
    assert exact_top(queries, items, 7).tolist() == np.argsort(-(queries @ items.T), axis=1)[:, :7].tolist()


def test_a_quantised_index_that_misses_its_recall_is_refused(tmp_path) -> None:
    items = _vectors(500, 16, 0) * 1e-3 + 1.0  # nearly equal vectors: 8 bits cannot tell them apart
    config = IndexConfig(min_recall_at_100=1.0, quantise_from_items=1)
    with pytest.raises(ExportError, match="recall@100"):
        build_index(items, _vectors(64, 16, 1), config, tmp_path / "index.faiss")
