"""Merges the changes since a bundle was made with its rows, item by item.

| bundle has the item | it may be recommended | its vector is made from | result                                       |
| ------------------- | --------------------- | ------------------- | -------------------------------------------- |
| yes                 | no                    | any change, or nothing  | its row is dead                              |
| yes                 | yes                   | this change             | it is live, in its row                       |
| yes                 | yes                   | older, or nothing       | it waits: its row stays as the bundle has it |
| no                  | no                    | any change              | it has an appended row, which is dead        |
| no                  | yes                   | this change             | it is live, in an appended row               |
| no                  | yes                   | an older change         | it waits, in an appended row, which is dead  |
| no                  | yes                   | nothing                 | it waits, without a row                      |
| no                  | no                    | nothing                 | it is left out                               |

Histories still contain the items of dead rows, and for them any vector is better than none. Changes up to the
manifest's `catalogue_sequence` are in the bundle already.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from inference_server.live.changes import ItemChanges, may_be_recommended
from inference_server.model.catalogue.live_items import LiveItems
from tandem.contract.bundle import Bundle
from tandem.contract.items import Item, ItemTable
from tandem.contract.live_items import LiveItemVector
from tandem.contract.streams import AppliedItemChange
from tandem.contract.vocabulary import MISSING_ROW


@dataclass(frozen=True, slots=True)
class _Entry:
    """One live item."""

    key: int
    applied: AppliedItemChange
    vector: npt.NDArray[np.float32]
    is_dead: bool = False


@dataclass(slots=True)
class _Merged:
    """Live items while they are collected."""

    in_bundle: dict[int, _Entry] = field(default_factory=dict)
    """Items of the bundle, by row."""
    appended: dict[int, _Entry] = field(default_factory=dict)
    """Items that the bundle lacks, by slot."""
    dead: list[int] = field(default_factory=list)
    """Dead rows of the bundle."""
    num_waiting: int = 0


def merge(bundle: Bundle, changes: ItemChanges, vectors: Mapping[int, LiveItemVector]) -> LiveItems:
    """The live items of a bundle. `vectors` were made with its item tower, and are given by the keys of their items."""
    since = list(changes.since(bundle.manifest.catalogue_sequence))
    rows = bundle.item_vocabulary.rows_of_keys(np.array([key for key, _ in since], dtype=np.uint64))
    merged = _Merged()
    for (key, applied), row in zip(since, rows.tolist(), strict=True):
        vector = vectors.get(key)
        if row == MISSING_ROW:
            _add_appended(merged, key, applied, vector)
        else:
            _add_in_bundle(merged, row, key, applied, vector)
    removed = bundle.item_vocabulary.rows_of_keys(changes.removed_since(bundle.manifest.catalogue_sequence))
    merged.dead += removed[removed != MISSING_ROW].tolist()
    return _live_items(bundle, merged)


def _add_in_bundle(
    merged: _Merged, row: int, key: int, applied: AppliedItemChange, vector: LiveItemVector | None
) -> None:
    """Adds a change of an item that the bundle has."""
    if not may_be_recommended(applied):
        merged.dead.append(row)
    elif vector is not None and vector.is_of(applied.sequence):
        merged.in_bundle[row] = _Entry(key, applied, vector.values)
    else:
        merged.num_waiting += 1


def _add_appended(merged: _Merged, key: int, applied: AppliedItemChange, vector: LiveItemVector | None) -> None:
    """Adds a change of an item that the bundle lacks."""
    is_up_to_date = vector is not None and vector.is_of(applied.sequence)
    is_wanted = may_be_recommended(applied)
    if vector is not None:
        is_dead = not (is_wanted and is_up_to_date)
        merged.appended[applied.slot] = _Entry(key, applied, vector.values, is_dead=is_dead)
    merged.num_waiting += is_wanted and not is_up_to_date


def _live_items(bundle: Bundle, merged: _Merged) -> LiveItems:
    num_bundle_items = len(bundle.items)
    bundle_rows, slots = sorted(merged.in_bundle), sorted(merged.appended)
    appended = [merged.appended[slot] for slot in slots]
    entries = [merged.in_bundle[row] for row in bundle_rows] + appended
    appended_rows = range(num_bundle_items, num_bundle_items + len(appended))
    dead_appended = [row for row, entry in zip(appended_rows, appended, strict=True) if entry.is_dead]
    dead = np.concatenate([np.setdiff1d(bundle.items.unavailable_rows, bundle_rows), merged.dead, dead_appended])
    vectors = np.empty((len(entries), bundle.manifest.embedding_dim), dtype=np.float32)
    for position, entry in enumerate(entries):
        vectors[position] = entry.vector
    return LiveItems(
        num_bundle_items=num_bundle_items,
        rows=np.array([*bundle_rows, *appended_rows], dtype=np.int64),
        vectors=vectors,
        table=ItemTable.from_items(map(_item, entries)),
        slots=np.array(slots, dtype=np.int64),
        keys=np.array([entry.key for entry in appended], dtype=np.uint64),
        dead=np.unique(dead.astype(np.int64)),
        num_waiting=merged.num_waiting,
    )


def _item(entry: _Entry) -> Item:
    change = entry.applied.change
    # The item has no interactions until it is in training data, so lists by popularity end with it.
    return Item(change.item_id, change.title, change.categories, change.attributes, popularity=0)
