"""The item index alone: files that it refuses, filters that do not leak. What it finds: test_search."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import faiss
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference_server.model.catalogue.bitmap import bitmap_of_mask, rows_in, without_rows
from inference_server.model.catalogue.item_mask import ItemMask
from inference_server.model.engine.index import ItemIndex
from inference_server.model.engine.search import Allowed
from tandem.contract.errors import BundleCorrupt, BundleIncompatible
from tandem.contract.vocabulary import MISSING_ROW

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
    return ItemIndex.open(index_file, item_vectors=VECTORS, nprobe=2)


masks = st.builds(
    lambda seed, share: np.random.default_rng(seed).random(NUM_ITEMS) < share,
    st.integers(0, 2**32 - 1),
    st.sampled_from([0.0, 0.003, 0.02, 0.2, 0.7, 1.0]),
)


@given(mask=masks, rows=st.lists(st.integers(0, NUM_ITEMS - 1), max_size=40))
def test_bitmaps_are_sets_of_rows(mask: np.ndarray, rows: list[int]) -> None:
    bitmap = bitmap_of_mask(mask)
    cleared = without_rows(bitmap, np.array(rows, dtype=np.int64))
    expected = mask.copy()
    expected[rows] = False
    assert (rows_in(cleared, np.arange(NUM_ITEMS)) == expected).all()
    assert np.bitwise_count(cleared).sum() == expected.sum()
    assert (bitmap == bitmap_of_mask(mask)).all(), "the original is left alone"


def allowed_by(mask: np.ndarray, excluded: list[int] | None = None) -> Allowed:
    return Allowed(ItemMask.from_bitmap(bitmap_of_mask(mask), NUM_ITEMS), np.array(excluded or [], dtype=np.int64))


def test_a_search_does_not_change_the_callers_filter(index: ItemIndex) -> None:
    allowed = allowed_by(np.ones(NUM_ITEMS, dtype=bool), [1, 2])
    before = allowed.mask.bitmap.copy() if allowed.mask else None
    first = index.nearest(VECTORS[3:4], 5, [allowed])
    second = index.nearest(VECTORS[3:4], 5, [allowed])
    assert first.rows.tolist() == second.rows.tolist()
    assert allowed.mask is not None
    assert (allowed.mask.bitmap == before).all()


def test_the_filter_of_one_search_does_not_leak_into_the_next(index: ItemIndex) -> None:
    only_one = np.arange(NUM_ITEMS) == 17
    users = [allowed_by(only_one), Allowed(None, np.empty(0, dtype=np.int64)), allowed_by(only_one, [17])]
    found = index.nearest(VECTORS[[0, 0, 0]], 10, users)
    assert found.rows[0].tolist() == [17] + [MISSING_ROW] * 9
    assert (found.rows[1] != MISSING_ROW).all()
    assert (found.rows[2] == MISSING_ROW).all()


def test_threads_may_search_at_once(index: ItemIndex) -> None:
    def search(row: int) -> list[int]:
        allowed = allowed_by(np.arange(NUM_ITEMS) % 7 == row % 7, [row, (row + 7) % NUM_ITEMS])
        found: list[int] = index.nearest(VECTORS[row : row + 1], 20, [allowed], exhaustive=True).rows[0].tolist()
        return found

    alone = [search(row) for row in range(100)]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(search, range(100))) == alone


def test_a_truncated_file_is_corrupt(index_file: Path, tmp_path: Path) -> None:
    truncated = tmp_path / "index.faiss"
    truncated.write_bytes(index_file.read_bytes()[:1000])
    with pytest.raises(BundleCorrupt, match=r"index\.faiss"):
        ItemIndex.open(truncated, item_vectors=VECTORS, nprobe=2)


@pytest.mark.parametrize(
    ("num_items", "dim", "said"), [(NUM_ITEMS, DIM + 1, "dimension 12"), (NUM_ITEMS + 1, DIM, "331 vectors")]
)
def test_an_index_of_another_catalogue_is_incompatible(index_file: Path, num_items: int, dim: int, said: str) -> None:
    with pytest.raises(BundleIncompatible, match=said):
        ItemIndex.open(index_file, item_vectors=np.zeros((num_items, dim), dtype=np.float32), nprobe=2)


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
        ItemIndex.open(tmp_path / "index.faiss", item_vectors=VECTORS, nprobe=2)
