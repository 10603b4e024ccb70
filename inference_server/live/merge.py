"""What changed since a bundle was made, item by item, and what that makes of the bundle's rows.

| the bundle has the item | it may be recommended | its vector is there | then                                      |
| ----------------------- | --------------------- | ------------------- | ----------------------------------------- |
| yes                     | no                    |                     | its row is dead                           |
| yes                     | yes                   | yes                 | it is live, in its row                    |
| yes                     | yes                   | no                  | waits: its row goes on as the bundle says |
| no                      | no                    | of any change       | it is live, in a further row that is dead |
| no                      | yes                   | yes                 | it is live, in a further row              |
| no                      | yes                   | of an older change  | waits, in a further row that is dead      |
| no                      |                       | no                  | waits, or is of no interest               |

A dead row is read as history, for which any vector is better than none. Changes up to the manifest's
`catalogue_sequence` are in the bundle already.
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
    """One live item on its way."""

    key: int
    applied: AppliedItemChange
    vector: npt.NDArray[np.float32]
    is_dead: bool = False


@dataclass(slots=True)
class _Merged:
    """Live items while they are gathered."""

    in_bundle: dict[int, _Entry] = field(default_factory=dict)
    """By row."""
    further: dict[int, _Entry] = field(default_factory=dict)
    """By slot."""
    dead: list[int] = field(default_factory=list)
    num_waiting: int = 0


def merge(bundle: Bundle, changes: ItemChanges, vectors: Mapping[int, LiveItemVector]) -> LiveItems:
    """The live items of a bundle; `vectors` are those made with its item tower, by the items' keys."""
    since = list(changes.since(bundle.manifest.catalogue_sequence))
    rows = bundle.item_vocabulary.rows_of_keys(np.array([key for key, _ in since], dtype=np.uint64))
    merged = _Merged()
    for (key, applied), row in zip(since, rows.tolist(), strict=True):
        vector = vectors.get(key)
        if row == MISSING_ROW:
            _take_further(merged, key, applied, vector)
        else:
            _take_own(merged, row, key, applied, vector)
    gone = bundle.item_vocabulary.rows_of_keys(changes.gone_since(bundle.manifest.catalogue_sequence))
    return _live_items(bundle, merged, gone_rows=gone[gone != MISSING_ROW])


def _take_own(merged: _Merged, row: int, key: int, applied: AppliedItemChange, vector: LiveItemVector | None) -> None:
    """Takes in a change of an item that the bundle has."""
    if not may_be_recommended(applied):
        merged.dead.append(row)
    elif vector is not None and vector.is_of(applied.sequence):
        merged.in_bundle[row] = _Entry(key, applied, vector.values)
    else:
        merged.num_waiting += 1


def _take_further(merged: _Merged, key: int, applied: AppliedItemChange, vector: LiveItemVector | None) -> None:
    """Takes in a change of an item that the bundle lacks."""
    is_up_to_date = vector is not None and vector.is_of(applied.sequence)
    wanted = may_be_recommended(applied)
    if vector is not None:
        merged.further[applied.slot] = _Entry(key, applied, vector.values, is_dead=not (wanted and is_up_to_date))
    merged.num_waiting += wanted and not is_up_to_date


def _live_items(bundle: Bundle, merged: _Merged, *, gone_rows: npt.NDArray[np.int64]) -> LiveItems:
    num_bundle_items = len(bundle.items)
    rows, slots = sorted(merged.in_bundle), sorted(merged.further)
    further = [merged.further[slot] for slot in slots]
    entries = [merged.in_bundle[row] for row in rows] + further
    dead_further = [num_bundle_items + place for place, entry in enumerate(further) if entry.is_dead]
    dead = np.concatenate([np.setdiff1d(bundle.items.unavailable_rows, rows), merged.dead, gone_rows, dead_further])
    vectors = np.empty((len(entries), bundle.manifest.embedding_dim), dtype=np.float32)
    for place, entry in enumerate(entries):
        vectors[place] = entry.vector
    return LiveItems(
        num_bundle_items=num_bundle_items,
        rows=np.array([*rows, *range(num_bundle_items, num_bundle_items + len(further))], dtype=np.int64),
        vectors=vectors,
        table=ItemTable.from_items(map(_item, entries)),
        slots=np.array(slots, dtype=np.int64),
        keys=np.array([entry.key for entry in further], dtype=np.uint64),
        dead=np.unique(dead.astype(np.int64)),
        num_waiting=merged.num_waiting,
    )


def _item(entry: _Entry) -> Item:
    change = entry.applied.change
    # Counted once the item is in training data; behind every item that somebody has chosen until then.
    return Item(change.item_id, change.title, change.categories, change.attributes, popularity=0)
