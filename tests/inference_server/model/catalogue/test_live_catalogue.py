"""A bundle and its live items behind the methods of one catalogue."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from inference_server.core.errors import InvalidRequest
from inference_server.core.query import AttributePredicate, Clause
from inference_server.model.catalogue.bundle_catalogue import BundleCatalogue
from inference_server.model.catalogue.catalogue import Catalogue
from inference_server.model.catalogue.filter_cache import FilterCache
from inference_server.model.catalogue.live_items import no_live_items
from inference_server.model.serving_model import ServingModel, open_model, with_live
from tandem.contract.items import ItemTable
from tandem.contract.live_items import LiveItemVector
from tandem.contract.vocabulary import MISSING_ROW, id_keys
from tests.inference_server.conftest import build
from tests.inference_server.live.feeds import applied_change
from tests.inference_server.live.scenarios import changed_model

CHANGES = [
    applied_change("item-3", 1, 4, categories=("opera",), attributes={"price": "90"}),
    applied_change("item-4", 2, 1, deleted=True),
    applied_change("new-a", 3, 7, categories=("drama", "opera"), attributes={"price": "much"}),
    applied_change("new-b", 4, 2, attributes={"price": "10.5"}),
    applied_change("new-c", 5, 3, available=False),
]
ROWS = {"item-3": 3, "item-4": 4, "new-b": 200, "new-c": 201, "new-a": 202}


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> ServingModel:
    directory = tmp_path_factory.mktemp("bundles") / "priced"
    return open_model(build(directory, attributes=lambda row: {"price": str(row)}).directory)


@pytest.fixture(scope="module")
def changed(plain: ServingModel) -> ServingModel:
    vectors = {
        applied.change.item_id: LiveItemVector(applied.sequence, np.full(16, applied.sequence, dtype=np.float32))
        for applied in CHANGES
        if not applied.change.deleted
    }
    return changed_model(plain, CHANGES, vectors)


def ids_of(catalogue: Catalogue, *clauses: Clause) -> set[str]:
    mask = catalogue.mask(clauses)
    assert mask.rows is not None
    assert mask.num_items == len(mask.rows)
    return set(catalogue.item_ids(mask.rows))


def test_ids_and_rows(changed: ServingModel) -> None:
    catalogue = changed.catalogue
    assert catalogue.num_items == 203
    assert catalogue.known_rows(id_keys([*ROWS, "nobody", "item-0"])).tolist() == [*ROWS.values(), 0]
    assert catalogue.item_ids(np.array([*ROWS.values(), 0])) == [*ROWS, "item-0"]
    assert changed.known_rows(id_keys(["nobody"])).tolist() == []


def test_vectors_titles_categories_popularity(changed: ServingModel) -> None:
    catalogue, items = changed.catalogue, changed.bundle.items
    vectors = catalogue.vectors[np.array([[0, 3], [202, 201]])]
    np.testing.assert_array_equal(vectors[0, 0], changed.bundle.item_vectors[0])
    assert vectors[[0, 1, 1], [1, 0, 1], 0].tolist() == [1.0, 3.0, 5.0]
    assert catalogue.vectors.shape == (203, 16)
    assert [catalogue.title(row) for row in (3, 200, 0)] == ["item-3 at 1", "new-b at 4", items.title(0)]
    assert catalogue.categories_of(np.array([3, 202, 1, 200])) == [["opera"], ["drama", "opera"], ["comedy"], []]
    assert catalogue.popularity_of(np.array([3, 202])).tolist() == [items.popularity[3], 0]


def test_filters_see_items_as_they_are_now(changed: ServingModel) -> None:
    catalogue = changed.catalogue
    assert ids_of(catalogue, Clause(include_categories=("opera",))) == {"item-3", "new-a"}
    assert "item-3" not in ids_of(catalogue, Clause(include_categories=("noir",))), (
        "its categories before the change do not count"
    )
    cheap = Clause(attributes=(AttributePredicate(name="price", max=11.0),))
    assert ids_of(catalogue, cheap) == {f"item-{n}" for n in range(12) if n not in {3, 4}} | {"new-b"}


def test_a_text_among_numbers_meets_no_bound_and_is_nobodys_mistake(changed: ServingModel) -> None:
    dear = AttributePredicate(name="price", min=0.0)
    changed.catalogue.check((dear,), field="filter.attributes")
    assert "new-a" not in ids_of(changed.catalogue, Clause(attributes=(dear,)))
    assert "new-a" in ids_of(
        changed.catalogue, Clause(attributes=(AttributePredicate(name="price", any_of=("much",)),))
    )


def test_bounds_of_an_attribute_that_is_text_are_the_callers_mistake(plain: ServingModel) -> None:
    items = [replace(plain.bundle.items.item(row), attributes={"price": f"{row} or so"}) for row in range(200)]
    texts = BundleCatalogue(replace(plain.bundle, items=ItemTable.from_items(items)), FilterCache())
    with pytest.raises(InvalidRequest, match=r"^f\[0\].min: values of 'price' are not numbers"):
        texts.check((AttributePredicate(name="price", min=1.0),), field="f")


def test_dead_rows_pass_nothing(changed: ServingModel) -> None:
    catalogue = changed.catalogue
    assert catalogue.recommendable(np.array([0, 3, 4, 200, 201, 202])).tolist() == [0, 3, 200, 202]
    assert not {"item-4", "new-c"} & ids_of(catalogue)
    assert len(ids_of(catalogue)) == 201
    assert 4 not in catalogue.top_rows(200).tolist()


def test_stable_rows_of_appended_items_are_slots(changed: ServingModel) -> None:
    rows = np.array([3, 202, 0, 200])
    stable = changed.catalogue.stable_rows(rows)
    assert stable.tolist() == [3, 207, 0, 202]
    assert changed.catalogue.rows_of_stable(stable).tolist() == rows.tolist()
    unknown = changed.catalogue.rows_of_stable(np.array([3, 299, 207]))
    assert unknown.tolist() == [3, MISSING_ROW, 202]


def test_a_list_that_is_known_is_known_after_a_change(plain: ServingModel, changed: ServingModel) -> None:
    digest = b"digest of a list"
    changed.catalogue.remember_list(digest, id_keys(["item-0", "new-a"]))
    assert plain.catalogue.knows_list(digest)
    left_out = changed.catalogue.mask_without((), digest)
    assert left_out.num_items == 199
    assert plain.catalogue.mask_without((), digest).num_items == 199


def test_rows_that_the_bundle_calls_unavailable_are_dead(plain: ServingModel) -> None:
    dead = no_live_items(200, 16, dead=np.array([0, 7]))
    catalogue = with_live(plain, dead).catalogue
    assert ids_of(catalogue) == {f"item-{n}" for n in range(200)} - {"item-0", "item-7"}
    assert catalogue.known_rows(id_keys(["item-7"])).tolist() == [7], "it is read as history"


def test_a_bundle_opens_with_its_unavailable_items_dead(tmp_path) -> None:
    bundle = build(tmp_path / "bundle", unavailable=(2, 9))
    model = open_model(bundle.directory)
    assert model.live.dead.tolist() == [2, 9]
    assert not {"item-2", "item-9"} & ids_of(model.catalogue)
