"""Shows one item of the live catalogue, decoded, and its vectors, for debugging."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import structlog

from feature_sync.bundles.registry import find_versions, live_names, open_registry
from feature_sync.core.errors import RegistryError, StoreError
from feature_sync.core.settings import Settings
from feature_sync.store.connection import StoreConnection
from feature_sync.store.served_models import further_models
from tandem.contract.bundle import read_manifest
from tandem.contract.live_items import (
    ItemPlace,
    LiveItemVector,
    item_places_key,
    item_vectors_feed,
    item_vectors_position_key,
    items_feed,
)
from tandem.contract.streams import AppliedItemChange
from tandem.ops.settings_types import split_names

_log = structlog.get_logger(__name__)


def show_item(settings: Settings, item_id: str, *, bundle_dir: Path | None = None) -> dict[str, object]:
    """Place, newest change and vectors of an item as plain values; None for what the live catalogue does not hold.

    Vectors are those under the bundle in `bundle_dir`, or under all live bundles. Raises StoreError,
    StoreValueError, StreamEntryError, and BundleError if `bundle_dir` is not a bundle.
    """
    with StoreConnection(settings.store_url) as connection:
        versions = [read_manifest(bundle_dir).model_version] if bundle_dir else _live_versions(settings, connection)
        place, value, newest = connection.run(
            [
                ("HGET", item_places_key(), item_id),
                ("HGET", items_feed().values, item_id),
                ("GET", items_feed().sequence),
            ]
        )
        change = AppliedItemChange.from_bytes(value) if value is not None else None
        return {
            "item_id": item_id,
            "catalogue_sequence": int(newest or 0),
            "place": None if place is None else _place_summary(ItemPlace.from_bytes(place)),
            "change": None if change is None else _change_summary(change),
            "vectors": {
                version: _vector_summary(connection, version, item_id, change.sequence if change else 0)
                for version in versions
            },
        }


def _live_versions(settings: Settings, connection: StoreConnection) -> list[str]:
    try:
        named = further_models(settings, connection)
    except StoreError:  # the caller's first command says so; what is wrong with the registry is to be said as well
        named = split_names(settings.further_models)
    live = live_names(named)
    try:
        found = find_versions(open_registry(settings), live)
    except RegistryError as error:
        _log.warning("no_bundle", error=str(error), effect="vectors are not shown")
        return []
    return [version.model_version for version in found]


def _place_summary(place: ItemPlace) -> dict[str, object]:
    return {"slot": place.slot, "changed_at": _iso_time(place.changed_at)}


def _change_summary(applied: AppliedItemChange) -> dict[str, object]:
    change = applied.change
    return {
        "sequence": applied.sequence,
        "changed_at": _iso_time(change.changed_at),
        "deleted": change.deleted,
        "available": change.available,
        "title": change.title,
        "description": change.description,
        "categories": list(change.categories),
        "attributes": dict(change.attributes),
    }


def _vector_summary(
    connection: StoreConnection, model_version: str, item_id: str, change_sequence: int
) -> dict[str, object]:
    value, position = connection.run(
        [("HGET", item_vectors_feed(model_version).values, item_id), ("GET", item_vectors_position_key(model_version))]
    )
    made_up_to = {"made_up_to_sequence": int(position or 0)}
    if value is None:
        return {**made_up_to, "vector": None}
    vector = LiveItemVector.from_bytes(value)
    return {
        **made_up_to,
        "vector": {
            "change_sequence": vector.change_sequence,
            "is_current": vector.is_of(change_sequence),
            "dimension": len(vector.values),
            "norm": round(float(np.linalg.norm(vector.values)), 6),
            "first_values": [round(float(number), 6) for number in vector.values[:4]],
        },
    }


def _iso_time(microseconds: int) -> str:
    return datetime.fromtimestamp(microseconds / 1e6, UTC).isoformat()
