"""Which changes take effect: the newest of an item, once, in whatever order changes arrive."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from feature_sync.items.changes import Outcome, Standing, place_changes
from tandem.contract.live_items import ItemPlace
from tandem.contract.streams import AppliedItemChange, ItemChange
from tests.feature_sync.items.conftest import NOW, change

NOTHING = Standing(sequence=0, places={}, current={})


def after(standing: Standing, outcome: Outcome) -> Standing:
    """The standing after an outcome has been written."""
    places = {**standing.places, **outcome.places}
    return Standing(
        sequence=standing.sequence + len(outcome.applied),
        places=places,
        current={**standing.current, **{taken.change.item_id: taken for taken in outcome.applied}},
    )


def test_new_items_get_sequences_and_slots_in_the_order_of_arrival() -> None:
    standing = Standing(sequence=7, places={}, current={})
    outcome = place_changes([change("b", 2), change("a", 1)], standing)
    assert [(taken.change.item_id, taken.sequence, taken.slot) for taken in outcome.applied] == [
        ("b", 8, 7),
        ("a", 9, 8),
    ]
    assert outcome.places["a"] == ItemPlace(slot=8, changed_at=NOW + 1_000_000)


def test_two_changes_of_one_item_in_a_batch_both_take_effect() -> None:
    outcome = place_changes([change("a", 1), change("a", 2, deleted=True)], NOTHING)
    assert [(taken.sequence, taken.slot, taken.change.deleted) for taken in outcome.applied] == [
        (1, 0, False),
        (2, 0, True),
    ]


def test_late_and_repeated_changes_have_no_effect() -> None:
    standing = after(NOTHING, place_changes([change("a", 5, title="new")], NOTHING))
    outcome = place_changes([change("a", 4, title="old"), change("a", 5, title="new")], standing)
    assert (outcome.applied, dict(outcome.places), outcome.num_stale) == ((), {}, 2)


def test_a_change_without_new_contents_only_updates_the_time() -> None:
    standing = after(NOTHING, place_changes([change("a", 1)], NOTHING))
    outcome = place_changes([change("a", 9)], standing)
    assert (outcome.applied, outcome.num_unchanged) == ((), 1)
    assert outcome.places == {"a": ItemPlace(slot=0, changed_at=NOW + 9_000_000)}
    late = place_changes([change("a", 5, title="between")], after(standing, outcome))
    assert late.num_stale == 1


def test_an_item_that_was_pruned_keeps_its_slot_and_its_time() -> None:
    standing = Standing(sequence=9, places={"a": ItemPlace(slot=1, changed_at=NOW)}, current={})
    outcome = place_changes([change("a", -1), change("a", 1)], standing)
    assert outcome.num_stale == 1
    assert [(taken.sequence, taken.slot) for taken in outcome.applied] == [(10, 1)]


@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 6)), unique=True, max_size=12).flatmap(
        lambda versions: st.tuples(st.just(versions), st.lists(st.sampled_from(versions or [("a", 1)]), max_size=40))
    ),
    st.integers(1, 5),
)
def test_after_any_delivery_of_all_changes_items_have_the_newest(
    case: tuple[list[tuple[str, int]], list[tuple[str, int]]], batch: int
) -> None:
    """Repeated changes out of order, in batches: in the end, every item has the contents of its newest change."""
    versions, disorder = case
    delivery = [*disorder, *versions] if versions else []
    standing, log = NOTHING, list[AppliedItemChange]()
    for start in range(0, len(delivery), batch):
        changes: list[ItemChange] = [
            change(item_id, second, title=f"{item_id}{second}") for item_id, second in delivery[start : start + batch]
        ]
        outcome = place_changes(changes, standing)
        standing = after(standing, outcome)
        log += outcome.applied
    newest = dict(sorted(versions, key=lambda version: version[1]))
    assert {item_id: taken.change.title for item_id, taken in standing.current.items()} == {
        item_id: f"{item_id}{second}" for item_id, second in newest.items()
    }
    assert [taken.sequence for taken in log] == list(range(1, len(log) + 1))
    assert len({(taken.change.item_id, taken.change.changed_at) for taken in log}) == len(log)
    assert len({place.slot for place in standing.places.values()}) == len(newest)
