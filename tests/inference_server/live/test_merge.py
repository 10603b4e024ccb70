"""Which changes make an item live, which kill its row, and which wait."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from inference_server.live.changes import ItemChanges
from inference_server.live.merge import merge
from inference_server.model.catalogue.live_items import LiveItems
from inference_server.model.serving_model import ServingModel
from tandem.contract.live_items import LiveItemVector
from tandem.contract.vocabulary import id_key
from tests.inference_server.live.feeds import applied_change

SEQUENCE = 7


def vector_of(change_sequence: int, model: ServingModel) -> LiveItemVector:
    vector = np.zeros(model.bundle.manifest.embedding_dim, dtype=np.float32)
    vector[0] = 1.0
    return LiveItemVector(change_sequence, vector)


def merged(
    model: ServingModel, item_id: str, *, made_from: int | None, merged_until: int = 0, **fields: bool
) -> LiveItems:
    """The live items after one change of an item, whose vector was made from the change `made_from`."""
    changes = ItemChanges(10)
    changes.take([applied_change(item_id, SEQUENCE, 3, **fields)])
    vectors = {} if made_from is None else {id_key(item_id): vector_of(made_from, model)}
    bundle = replace(model.bundle, manifest=replace(model.bundle.manifest, catalogue_sequence=merged_until))
    return merge(bundle, changes, vectors)


@pytest.mark.parametrize("made_from", [None, SEQUENCE - 1, SEQUENCE])
@pytest.mark.parametrize("fields", [{"deleted": True}, {"available": False}])
def test_an_item_of_the_bundle_that_may_not_be_recommended_is_dead_at_once(
    model: ServingModel, fields: dict[str, bool], made_from: int | None
) -> None:
    live = merged(model, "item-5", made_from=made_from, **fields)
    assert live.dead.tolist() == [5]
    assert len(live.rows) == 0
    assert live.num_waiting == 0


def test_a_changed_item_keeps_its_row_once_its_vector_is_there(model: ServingModel) -> None:
    live = merged(model, "item-5", made_from=SEQUENCE)
    assert live.rows.tolist() == [5]
    assert live.table.title(0) == f"item-5 at {SEQUENCE}"
    assert (len(live.dead), len(live.slots), live.num_waiting) == (0, 0, 0)
    assert live.hidden_from_bundle.tolist() == [5], "its old vector must not be found"


@pytest.mark.parametrize("made_from", [None, SEQUENCE - 1, SEQUENCE + 1])
def test_until_then_the_bundles_word_holds(model: ServingModel, made_from: int | None) -> None:
    live = merged(model, "item-5", made_from=made_from)
    assert live.changes_nothing
    assert live.num_waiting == 1


def test_a_further_item_has_a_row_behind_the_bundles(model: ServingModel) -> None:
    live = merged(model, "new", made_from=SEQUENCE)
    assert live.rows.tolist() == [200]
    assert live.slots.tolist() == [3]
    assert (live.num_items, live.num_recommendable, len(live.dead)) == (201, 1, 0)


def test_without_any_vector_it_has_none(model: ServingModel) -> None:
    live = merged(model, "new", made_from=None)
    assert live.changes_nothing
    assert live.num_waiting == 1


@pytest.mark.parametrize(
    ("fields", "made_from", "num_waiting"),
    [({}, SEQUENCE - 1, 1), ({"available": False}, SEQUENCE, 0), ({"deleted": True}, SEQUENCE - 1, 0)],
)
def test_a_further_item_that_may_not_be_recommended_now_is_read_as_history(
    model: ServingModel, fields: dict[str, bool], made_from: int, num_waiting: int
) -> None:
    live = merged(model, "new", made_from=made_from, **fields)
    assert live.rows.tolist() == live.dead.tolist() == [200]
    assert (live.num_recommendable, live.num_waiting) == (0, num_waiting)


def test_what_the_bundle_has_merged_changes_nothing(model: ServingModel) -> None:
    assert merged(model, "item-5", made_from=None, merged_until=SEQUENCE, deleted=True).changes_nothing
    assert merged(model, "new", made_from=SEQUENCE, merged_until=SEQUENCE).changes_nothing


def test_rows_follow_slots_in_whatever_order_changes_came(model: ServingModel) -> None:
    """So that every worker orders items of equal scores alike."""
    changes = ItemChanges(10)
    changes.take(applied_change(f"new-{slot}", 10 + n, slot) for n, slot in enumerate([9, 2, 5]))
    vectors = {id_key(f"new-{slot}"): vector_of(10 + n, model) for n, slot in enumerate([9, 2, 5])}
    live = merge(model.bundle, changes, vectors)
    assert live.slots.tolist() == [2, 5, 9]
    assert live.rows.tolist() == [200, 201, 202]
    assert live.table.item_ids(range(3)) == ["new-2", "new-5", "new-9"]


class TestTheLimit:
    def test_the_oldest_changes_are_put_off(self, model: ServingModel) -> None:
        changes = ItemChanges(2)
        changes.take(applied_change(f"new-{n}", n + 1, n) for n in range(5))
        assert len(changes) == 2
        assert changes.num_put_off == 3
        vectors = {id_key(f"new-{n}"): vector_of(n + 1, model) for n in range(5)}
        assert merge(model.bundle, changes, vectors).slots.tolist() == [3, 4]

    def test_that_an_item_is_gone_is_not_forgotten(self, model: ServingModel) -> None:
        changes = ItemChanges(1)
        changes.take(applied_change(f"item-{n}", n + 1, n, deleted=n % 2 == 0) for n in range(6))
        assert merge(model.bundle, changes, {}).dead.tolist() == [0, 2, 4]
        assert changes.num_put_off == 2

    def test_an_item_that_came_back_is_gone_no_more(self, model: ServingModel) -> None:
        changes = ItemChanges(1)
        changes.take([applied_change("item-0", 1, 0, deleted=True), applied_change("item-1", 2, 1)])
        changes.take([applied_change("item-0", 3, 0), applied_change("item-1", 4, 1)])
        assert merge(model.bundle, changes, {}).changes_nothing

    def test_what_every_bundle_has_is_dropped(self, model: ServingModel) -> None:
        changes = ItemChanges(1)
        changes.take(applied_change(f"item-{n}", n + 1, n, deleted=True) for n in range(3))
        changes.forget_until(1)
        assert merge(model.bundle, changes, {}).dead.tolist() == [1, 2]
        changes.forget_until(3)
        assert merge(model.bundle, changes, {}).changes_nothing


def test_an_older_change_that_comes_again_has_no_effect(model: ServingModel) -> None:
    changes = ItemChanges(10)
    changes.take([applied_change("item-1", 5, 0), applied_change("item-1", 4, 0, deleted=True)])
    assert merge(model.bundle, changes, {}).changes_nothing
