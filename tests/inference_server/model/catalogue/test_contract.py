"""The contract of every catalogue, tested with a bundle's and with live items, and the filters that they keep."""

from __future__ import annotations

import numpy as np
import pytest

from inference_server.core.query import Clause
from inference_server.model.catalogue.catalogue import Catalogue
from inference_server.model.catalogue.filter_cache import FilterCache, NewestEntries
from inference_server.model.serving_model import ServingModel, open_model
from tandem.contract.vocabulary import MISSING_ROW, NO_KEYS, Rows, id_keys
from tests.inference_server.conftest import build
from tests.inference_server.live.scenarios import changed_model, random_changes

NUM_BUNDLE_ITEMS, DIM = 200, 16
DRAMA = (Clause(include_categories=("drama",)),)
NO_DRAMA = (Clause(exclude_categories=("drama",)),)
LIST = [f"item-{row}" for row in range(0, 200, 3)] + ["nobody"]


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> ServingModel:
    return open_model(build(tmp_path_factory.mktemp("bundles") / "tiny").directory)


@pytest.fixture(scope="module", params=["bundle", "live"])
def catalogue(plain: ServingModel, request: pytest.FixtureRequest) -> Catalogue:
    if request.param == "bundle":
        return plain.bundle_catalogue
    live = changed_model(plain, *random_changes(3, 120, NUM_BUNDLE_ITEMS, DIM)).catalogue
    assert live.num_items > NUM_BUNDLE_ITEMS
    assert live.alive is not None
    return live


def all_rows(catalogue: Catalogue) -> Rows:
    return np.arange(catalogue.num_items)


class TestCatalogue:
    """The contract of `Catalogue`."""

    def test_an_id_has_the_row_that_has_the_id(self, catalogue: Catalogue) -> None:
        ids = catalogue.item_ids(all_rows(catalogue))
        assert len(set(ids)) == catalogue.num_items
        assert catalogue.known_rows(id_keys(["nobody", *ids, "no one"])).tolist() == all_rows(catalogue).tolist()
        assert catalogue.item_ids(all_rows(catalogue)[::-7]) == ids[::-7]
        assert catalogue.known_rows(NO_KEYS).tolist() == []

    def test_every_row_has_a_vector_a_title_categories_and_popularity(self, catalogue: Catalogue) -> None:
        rows = all_rows(catalogue)
        vectors, popularity = catalogue.vectors[rows], catalogue.popularity_of(rows)
        assert catalogue.vectors.shape == vectors.shape == (catalogue.num_items, DIM)
        assert (vectors.dtype, popularity.dtype) == (np.float32, np.int64)
        np.testing.assert_array_equal(catalogue.vectors[rows[::-1].reshape(1, -1)][0], vectors[::-1])
        assert (popularity >= 0).all()
        assert len(catalogue.categories_of(rows)) == catalogue.num_items
        assert all(isinstance(catalogue.title(int(row)), str) for row in rows)

    def test_stable_rows_lead_back_to_rows(self, catalogue: Catalogue) -> None:
        stable = catalogue.stable_rows(all_rows(catalogue))
        assert len(np.unique(stable)) == catalogue.num_items
        assert catalogue.rows_of_stable(stable).tolist() == all_rows(catalogue).tolist()

    def test_a_stable_row_of_an_item_that_is_not_here_is_missing(self, catalogue: Catalogue) -> None:
        elsewhere = np.array([5, NUM_BUNDLE_ITEMS + 100_000, 7])
        assert catalogue.rows_of_stable(elsewhere).tolist() == [5, MISSING_ROW, 7]

    def test_a_mask_holds_the_rows_that_meet_its_clauses_and_may_be_recommended(self, catalogue: Catalogue) -> None:
        masks = {clauses: catalogue.mask(clauses) for clauses in ((), DRAMA, NO_DRAMA)}
        rows = {clauses: mask.rows for clauses, mask in masks.items()}
        assert all(mask.rows is not None and mask.num_items == len(mask.rows) for mask in masks.values())
        assert rows[()].tolist() == catalogue.recommendable(all_rows(catalogue)).tolist()
        is_drama = np.array(["drama" in names for names in catalogue.categories_of(rows[()])])
        assert rows[DRAMA].tolist() == rows[()][is_drama].tolist()
        assert rows[NO_DRAMA].tolist() == rows[()][~is_drama].tolist()

    def test_requests_share_masks_and_cannot_change_them(self, catalogue: Catalogue) -> None:
        mask = catalogue.mask(DRAMA)
        assert catalogue.mask((Clause(include_categories=("drama",)),)) is mask
        with pytest.raises(ValueError, match="read-only"):
            mask.bitmap[0] = 0

    def test_recommendable_rows_keep_their_order(self, catalogue: Catalogue) -> None:
        backwards = all_rows(catalogue)[::-1]
        recommendable = catalogue.recommendable(backwards)
        assert recommendable.tolist() == catalogue.recommendable(all_rows(catalogue)).tolist()[::-1]
        assert (catalogue.alive is None) == (len(recommendable) == catalogue.num_items)

    @pytest.mark.parametrize("clauses", [(), DRAMA])
    def test_a_long_list_is_left_out_of_a_mask(self, catalogue: Catalogue, clauses: tuple[Clause, ...]) -> None:
        catalogue.remember_list(b"list", id_keys(LIST))
        assert catalogue.knows_list(b"list")
        without = catalogue.mask_without(clauses, b"list")
        every, left_out = catalogue.mask(clauses).rows, catalogue.known_rows(id_keys(LIST))
        assert without.rows is not None
        assert without.rows.tolist() == np.setdiff1d(every, left_out).tolist()
        assert catalogue.mask_without(clauses, b"list") is without

    def test_a_list_that_was_never_remembered_is_unknown(self, catalogue: Catalogue) -> None:
        assert not catalogue.knows_list(b"unknown")
        with pytest.raises(KeyError):
            catalogue.mask_without((), b"unknown")

    @pytest.mark.parametrize("include_categories", [(), ("drama",), ("no such category",), ("drama", "noir")])
    def test_popular_rows_are_all_rows(self, catalogue: Catalogue, include_categories: tuple[str, ...]) -> None:
        rows = np.concatenate(list(catalogue.popular_rows(include_categories)))
        assert np.unique(rows).tolist() == all_rows(catalogue).tolist()

    def test_top_rows_are_recommendable_and_come_once(self, catalogue: Catalogue) -> None:
        rows = catalogue.top_rows(10)
        assert len(rows) == 10
        assert len(np.unique(rows)) == 10
        assert catalogue.recommendable(rows).tolist() == rows.tolist()
        assert catalogue.top_rows(4).tolist() == rows[:4].tolist()


def test_the_oldest_entry_leaves_a_full_mapping() -> None:
    entries = NewestEntries[str, int](2)
    assert [entries.add(key, number) for number, key in enumerate("abca")] == [0, 1, 2, 3]
    assert dict(entries) == {"c": 2, "a": 3}


def test_caches_of_one_model_share_lists_and_no_masks(plain: ServingModel) -> None:
    first = FilterCache()
    first.masks.add(DRAMA, plain.catalogue.mask(DRAMA))
    second = first.with_same_lists()
    second.lists.add(b"list", id_keys(LIST))
    assert b"list" in first.lists
    assert not second.masks
