"""Catalogues with random changes, and their recommendable items, computed by hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from inference_server.core.query import AttributePredicate, ItemFilter
from inference_server.live.changes import ItemChanges
from inference_server.live.merge import merge
from inference_server.model.serving_model import ServingModel, with_live
from tandem.contract.bundle import Bundle
from tandem.contract.live_items import LiveItemVector
from tandem.contract.streams import AppliedItemChange
from tandem.contract.vocabulary import id_key
from tests.inference_server.live.feeds import applied_change
from tests.support.tiny_bundle import CATEGORIES, RARE

COLOURS = ("red", "green", "blue")
_NO_LIMIT = 1_000_000


@dataclass(frozen=True)
class Known:
    """The present data of an item that may be recommended."""

    vector: npt.NDArray[np.float32]
    categories: frozenset[str]
    attributes: Mapping[str, str]


def attributes_of(row: int) -> dict[str, str]:
    """A price for two items in three, and a colour for every item."""
    values = {"colour": COLOURS[row % 3]}
    if row % 3:
        values["price"] = str((row % 40) / 4)
    return values


def changed_model(
    model: ServingModel,
    changes: Sequence[AppliedItemChange],
    vectors: Mapping[str, LiveItemVector],
    *,
    max_items: int = _NO_LIMIT,
) -> ServingModel:
    """The model after `changes`, with `vectors` by item id."""
    known = ItemChanges(max_items)
    known.take(changes)
    by_key = {id_key(item_id): vector for item_id, vector in vectors.items()}
    return with_live(model, merge(model.bundle, known, by_key))


def over_index(model: ServingModel) -> ServingModel:
    """The model searched with its IVF index, however small it is."""
    return with_live(replace(model, bundle_search=model.index, search=model.index), model.live)


def random_changes(
    seed: int, count: int, num_bundle_items: int, dim: int
) -> tuple[list[AppliedItemChange], dict[str, LiveItemVector]]:
    """Changes of items, some items twice, and vectors: of the last change, of an older change, or none."""
    rng = np.random.default_rng(seed)
    changes: list[AppliedItemChange] = []
    vectors: dict[str, LiveItemVector] = {}
    for sequence in range(1, count + 1):
        in_bundle = rng.random() < 0.5
        slot = int(rng.integers(0, 2 * count))
        row = int(rng.integers(0, num_bundle_items))
        item_id = f"item-{row}" if in_bundle else f"new-{slot}"
        changes.append(
            applied_change(
                item_id,
                sequence,
                slot,
                deleted=rng.random() < 0.2,
                available=rng.random() < 0.8,
                categories=rng.permutation([*CATEGORIES, RARE])[: rng.integers(0, 3)].tolist(),
                attributes=attributes_of(int(rng.integers(0, 1000))) if rng.random() < 0.8 else {},
            )
        )
        if rng.random() < 0.7:
            vector = rng.standard_normal(dim, dtype=np.float32)
            vectors[item_id] = LiveItemVector(sequence, vector / np.linalg.norm(vector))
    return changes, vectors


_ITEMS: dict[Path, dict[str, Known]] = {}


def _items_of_bundle(bundle: Bundle) -> dict[str, Known]:
    """Items by id, read only once per bundle, because that is slow item by item."""
    if bundle.directory not in _ITEMS:
        items = [bundle.items.item(row) for row in range(len(bundle.items))]
        _ITEMS[bundle.directory] = {
            item.item_id: Known(bundle.item_vectors[row], frozenset(item.categories), item.attributes)
            for row, item in enumerate(items)
        }
    return _ITEMS[bundle.directory]


def expected_items(
    model: ServingModel, changes: Sequence[AppliedItemChange], vectors: Mapping[str, LiveItemVector]
) -> dict[str, Known]:
    """Recommendable items by id: the rules of `live.merge` once more, item by item."""
    items = dict(_items_of_bundle(model.bundle))
    newest = {applied.change.item_id: applied for applied in changes}
    for item_id, applied in newest.items():
        change, vector = applied.change, vectors.get(item_id)
        if change.deleted or not change.available:
            items.pop(item_id, None)
        elif vector is not None and vector.change_sequence == applied.sequence:
            items[item_id] = Known(vector.values, frozenset(change.categories), change.attributes)
    return items


def passes(item: Known, item_filter: ItemFilter) -> bool:
    """Whether an item passes a filter, apart from its excluded ids."""
    included = set(item_filter.include_categories)
    return (
        (not included or bool(included & item.categories))
        and not item.categories & set(item_filter.exclude_categories)
        and all(_meets(item.attributes.get(predicate.name), predicate) for predicate in item_filter.attributes)
    )


def _meets(value: str | None, predicate: AttributePredicate) -> bool:
    if value is None:
        return not predicate.any_of and predicate.min is None and predicate.max is None
    if (predicate.any_of and value not in predicate.any_of) or value in predicate.none_of:
        return False
    number = float(value) if predicate.min is not None or predicate.max is not None else 0.0
    return (predicate.min is None or number >= predicate.min) and (predicate.max is None or number <= predicate.max)
