"""Decides which changes of the catalogue take effect, and which slot each item gets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from tandem.contract.live_items import ItemPlace
from tandem.contract.streams import AppliedItemChange, ItemChange

_NUM_SLOTS: Final = 1 << 32
"""An item's place stores 32 bits of its slot: slots repeat after four billion changes."""


@dataclass(frozen=True, kw_only=True)
class Standing:
    """The stored values that a batch of changes needs."""

    sequence: int
    """Sequence of the newest change that took effect."""
    places: Mapping[str, ItemPlace]
    """By item id, for the items of the batch that have a place."""
    current: Mapping[str, AppliedItemChange]
    """By item id, the newest change of those items of the batch that are in the feed."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """The result of a batch of changes."""

    applied: tuple[AppliedItemChange, ...]
    """In the order in which they take effect; an item may occur several times."""
    places: Mapping[str, ItemPlace]
    """Places that are new or have a new time, by item id."""
    num_stale: int
    """Number of changes that are repeated, or arrive after a newer change of their item."""
    num_unchanged: int
    """Number of changes without new content."""


def place_changes(changes: Sequence[ItemChange], standing: Standing) -> Outcome:
    """Decides on changes in the order of their arrival.

    A change takes effect if it is newer than the item's newest change, so that no change takes effect twice, and a late
    old change has no effect. A change without new content updates the item's time but gets no sequence: a catalogue
    that is sent again every night costs no vectors.

    A slot is the number of an item's first change, not a count of items: after the store was emptied, workers still
    know items by their slots, and other items must get new slots.
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
