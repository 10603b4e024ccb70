"""Filters inside the search: never an excluded item, never short, and exact where all lists are searched."""

from __future__ import annotations

from pathlib import Path

import faiss
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference_server.bitmap import bitmap_of_mask, count_rows, rows_in, without_rows
from inference_server.engine.index import ItemIndex
from tandem.contract.errors import BundleCorrupt, BundleIncompatible

NUM_ITEMS, DIM = 331, 12
VECTORS = np.random.default_rng(7).standard_normal((NUM_ITEMS, DIM), dtype=np.float32)


@pytest.fixture(scope="module")
def index_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    index = faiss.index_factory(DIM, "IVF16,Flat", faiss.METRIC_INNER_PRODUCT)
    index.cp.min_points_per_centroid = 1
    index.train(VECTORS)
    index.add(VECTORS)
    path = tmp_path_factory.mktemp("index") / "index.faiss"
    faiss.write_index(index, str(path))
    return path


@pytest.fixture(scope="module")
def index(index_file: Path) -> ItemIndex:
    return ItemIndex(index_file, num_items=NUM_ITEMS, dim=DIM, nprobe=2)


masks = st.builds(
    lambda seed, share: np.random.default_rng(seed).random(NUM_ITEMS) < share,
    st.integers(0, 2**32 - 1),
    st.sampled_from([0.0, 0.003, 0.02, 0.2, 0.7, 1.0]),
)
queries = st.integers(0, 2**32 - 1).map(lambda seed: np.random.default_rng(seed).standard_normal(DIM).astype("f4"))
counts = st.sampled_from([1, 5, 10, 100, 331, 500])


@given(mask=masks, query=queries, k=counts)
def test_all_lists_give_what_brute_force_gives(index: ItemIndex, mask: np.ndarray, query: np.ndarray, k: int) -> None:
    allowed = np.flatnonzero(mask)
    best = allowed[np.argsort(-(VECTORS[allowed] @ query), kind="stable")][:k]
    rows, scores = index.nearest(query, k, bitmap_of_mask(mask), exhaustive=True)
    assert set(rows.tolist()) == set(best.tolist())
    np.testing.assert_allclose(scores, np.sort(VECTORS[best] @ query)[::-1], rtol=1e-4, atol=1e-4)


@given(mask=masks, query=queries, k=counts)
def test_never_excluded_never_twice_never_short(index: ItemIndex, mask: np.ndarray, query: np.ndarray, k: int) -> None:
    rows, scores = index.nearest(query, k, bitmap_of_mask(mask))
    assert mask[rows].all()
    assert len(set(rows.tolist())) == len(rows)
    assert len(rows) == min(k, int(mask.sum()))
    assert (np.diff(scores) <= 0).all()


@given(mask=masks, rows=st.lists(st.integers(0, NUM_ITEMS - 1), max_size=40))
def test_bitmaps_are_sets_of_rows(mask: np.ndarray, rows: list[int]) -> None:
    bitmap = bitmap_of_mask(mask)
    cleared = without_rows(bitmap, np.array(rows, dtype=np.int64))
    expected = mask.copy()
    expected[rows] = False
    assert (rows_in(cleared, np.arange(NUM_ITEMS)) == expected).all()
    assert count_rows(cleared) == expected.sum()
    assert (bitmap == bitmap_of_mask(mask)).all(), "the original is left alone"


def test_a_search_does_not_change_the_callers_bitmap(index: ItemIndex) -> None:
    allowed = bitmap_of_mask(np.ones(NUM_ITEMS, dtype=bool))
    allowed.flags.writeable = False
    first = index.nearest(VECTORS[3], 5, allowed)
    second = index.nearest(VECTORS[3], 5, allowed)
    assert first[0].tolist() == second[0].tolist()


def test_the_filter_of_one_search_does_not_leak_into_the_next(index: ItemIndex) -> None:
    everything = bitmap_of_mask(np.ones(NUM_ITEMS, dtype=bool))
    only_one = bitmap_of_mask(np.arange(NUM_ITEMS) == 17)
    assert index.nearest(VECTORS[0], 10, only_one)[0].tolist() == [17]
    assert len(index.nearest(VECTORS[0], 10, everything)[0]) == 10
    assert index.nearest(VECTORS[0], 10, without_rows(only_one, np.array([17])))[0].tolist() == []


def test_threads_may_search_at_once(index: ItemIndex) -> None:
    from concurrent.futures import ThreadPoolExecutor

    def search(row: int) -> list[int]:
        allowed = bitmap_of_mask(np.arange(NUM_ITEMS) % 7 == row % 7)
        return index.nearest(VECTORS[row], 20, allowed, exhaustive=True)[0].tolist()

    alone = [search(row) for row in range(100)]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(search, range(100))) == alone


def test_a_truncated_file_is_corrupt(index_file: Path, tmp_path: Path) -> None:
    truncated = tmp_path / "index.faiss"
    truncated.write_bytes(index_file.read_bytes()[:1000])
    with pytest.raises(BundleCorrupt, match=r"index\.faiss"):
        ItemIndex(truncated, num_items=NUM_ITEMS, dim=DIM, nprobe=2)


@pytest.mark.parametrize(
    ("num_items", "dim", "said"), [(NUM_ITEMS, DIM + 1, "dimension 12"), (NUM_ITEMS + 1, DIM, "331 vectors")]
)
def test_an_index_of_another_catalogue_is_incompatible(index_file: Path, num_items: int, dim: int, said: str) -> None:
    with pytest.raises(BundleIncompatible, match=said):
        ItemIndex(index_file, num_items=num_items, dim=dim, nprobe=2)


@pytest.mark.parametrize(
    ("factory", "metric", "said"),
    [("Flat", faiss.METRIC_INNER_PRODUCT, "not an IVF"), ("IVF4,Flat", faiss.METRIC_L2, "inner product")],
)
def test_another_kind_of_index_is_incompatible(tmp_path: Path, factory: str, metric: int, said: str) -> None:
    index = faiss.index_factory(DIM, factory, metric)
    index.train(VECTORS)
    index.add(VECTORS)
    faiss.write_index(index, str(tmp_path / "index.faiss"))
    with pytest.raises(BundleIncompatible, match=said):
        ItemIndex(tmp_path / "index.faiss", num_items=NUM_ITEMS, dim=DIM, nprobe=2)
