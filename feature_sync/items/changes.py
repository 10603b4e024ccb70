"""What becomes of changes of the catalogue: which take effect, and which place each item gets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from tandem.contract.live_items import ItemPlace
from tandem.contract.streams import AppliedItemChange, ItemChange

_NUM_SLOTS: Final = 1 << 32
"""A place keeps 32 bits of a slot: after four billion changes slots come again."""


@dataclass(frozen=True, kw_only=True)
class Standing:
    """What is stored before a batch of changes, as far as the batch needs it."""

    sequence: int
    """Of the newest change that took effect."""
    places: Mapping[str, ItemPlace]
    """By item id, of the batch's items that have one."""
    current: Mapping[str, AppliedItemChange]
    """By item id, the newest change of the batch's items that are in the feed."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a batch of changes comes to."""

    applied: tuple[AppliedItemChange, ...]
    """In the order in which they take effect; one item may be there several times."""
    places: Mapping[str, ItemPlace]
    """Places that are new or have a new time, by item id."""
    num_stale: int
    """Changes that are repeated, or come after a newer one of their item."""
    num_unchanged: int
    """Changes that say what is known already."""


def place_changes(changes: Sequence[ItemChange], standing: Standing) -> Outcome:
    """Decides on changes in the order of their arrival.

    A change takes effect where it is newer than the item's newest one, so that none does twice, and an old one that
    comes late does not at all. One that says nothing new moves the item's time and gets no sequence: a catalogue that
    is sent anew every night costs no vectors.

    A slot is the number of an item's first change, not a count of items: where the store was emptied, workers still
    know items by their slots, and others must get new ones.
    """
    places, current = dict(standing.places), dict(standing.current)
    applied: list[AppliedItemChange] = []
    moved: dict[str, ItemPlace] = {}
    num_stale = num_unchanged = 0
    for change in changes:
        place = places.get(change.item_id)
        if place is not None and change.changed_at <= place.changed_at:
            num_stale += 1
            continue
        if place is None:
            slot = (standing.sequence + len(applied)) % _NUM_SLOTS
            place = ItemPlace(slot=slot, changed_at=change.changed_at)
        else:
            place = replace(place, changed_at=change.changed_at)
        places[change.item_id] = moved[change.item_id] = place
        known = current.get(change.item_id)
        if known is not None and replace(known.change, changed_at=change.changed_at) == change:
            num_unchanged += 1
            continue
        taken = AppliedItemChange(sequence=standing.sequence + len(applied) + 1, slot=place.slot, change=change)
        applied.append(taken)
        current[change.item_id] = taken
    return Outcome(applied=tuple(applied), places=moved, num_stale=num_stale, num_unchanged=num_unchanged)
