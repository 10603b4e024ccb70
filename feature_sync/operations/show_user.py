"""Shows one user of the online store, decoded, for debugging."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import numpy as np
import structlog

from feature_sync.bundles.checked import open_checked
from feature_sync.bundles.registry import fetch_bundle, find_version, open_registry
from feature_sync.core.errors import RegistryError
from feature_sync.core.settings import Settings
from feature_sync.store.online_store import OnlineStore
from tandem.contract import names
from tandem.contract.bundle import Bundle
from tandem.contract.errors import BundleError
from tandem.contract.store import UserState, UserVector
from tandem.contract.vocabulary import MISSING_ROW, Keys

_EVENT_TYPES: Final = {code: name for name, code in names.EVENT_CODES.items()}

_log = structlog.get_logger(__name__)


def show_user(settings: Settings, user_id: str, *, bundle_dir: Path | None = None) -> dict[str, object]:
    """State and vector of a user as plain values; None for what the store does not hold.

    Items are shown by id if the bundle has them, otherwise, or without a bundle, by the hexadecimal of their keys.
    Raises StoreError, StoreValueError, and BundleError if `bundle_dir` is not a bundle.
    """
    bundle = open_checked(bundle_dir, settings) if bundle_dir else served_bundle(settings)
    model_version = bundle.manifest.model_version if bundle else ""
    with OnlineStore(
        settings.store_url,
        retry_seconds=settings.store_retry_seconds,
        vector_ttl_seconds=settings.vector_ttl_seconds,
    ) as store:
        stored = store.read_user(user_id, model_version)
        seconds_left = store.vector_seconds_left(user_id, model_version) if stored.vector is not None else None
    state = UserState.from_bytes(stored.state) if stored.state is not None else None
    vector = UserVector.from_bytes(stored.vector) if stored.vector is not None else None
    return {
        "user_id": user_id,
        "model_version": model_version or None,
        "state": state_summary(state, bundle) if state else None,
        "vector": None
        if vector is None
        else {
            "state_revision": vector.state_revision,
            "is_current": state is not None and vector.state_revision == state.revision,
            "dimension": len(vector.values),
            "norm": round(float(np.linalg.norm(vector.values)), 6),
            "first_values": [round(float(value), 6) for value in vector.values[:4]],
            "expires_in_seconds": seconds_left,
        },
    }


def served_bundle(settings: Settings) -> Bundle | None:
    """The bundle that the registry's alias names; None, with a line in the log, if it cannot be opened."""
    try:
        registry = open_registry(settings)
        version = find_version(registry, settings.model_alias)
        return fetch_bundle(registry, version, settings)
    except (RegistryError, BundleError) as error:
        _log.warning("no_bundle", error=str(error), effect="items are shown by key, the vector is not shown")
        return None


def state_summary(state: UserState, bundle: Bundle | None) -> dict[str, object]:
    """A state as plain values; items by their ids if the bundle has them, else by the hexadecimal of their keys."""
    items = item_names(state.event_item_keys, bundle)
    merged = {int(row["position"]): row for row in state.merged}
    return {
        "revision": state.revision,
        "features": dict(state.features),
        "event_counts": {
            event_type: int(count) for event_type, count in zip(names.EVENT_TYPES, state.event_counts, strict=True)
        },
        "num_seen_items": len(state.seen_item_keys),
        "num_recent_events": len(state.event_item_keys),
        "recent_events_newest_first": [
            {
                "item": items[index],
                "type": _EVENT_TYPES.get(int(state.event_codes[index]), f"code {state.event_codes[index]}"),
                "time": _iso_time(int(state.event_times[index])),
                **(_merged_summary(merged[index]) if index in merged else {}),
            }
            for index in reversed(range(len(items)))
        ],
    }


def _merged_summary(merged: np.void) -> dict[str, object]:
    """The events that one of the history stands for."""
    counts = zip(names.EVENT_TYPES, merged["counts"].tolist(), strict=True)
    return {
        "stands_for": {event_type: count for event_type, count in counts if count},
        "last_time": _iso_time(int(merged["last_time"])),
    }


def item_names(keys: Keys, bundle: Bundle | None) -> list[str]:
    """Ids of items, or the hexadecimal of the keys of those that the bundle does not have."""
    if bundle is None:
        return [f"{int(key):016x}" for key in keys]
    rows = bundle.item_vocabulary.rows_of_keys(keys)
    return [
        f"{int(key):016x}" if row == MISSING_ROW else bundle.items.item_ids([int(row)])[0]
        for key, row in zip(keys, rows, strict=True)
    ]


def _iso_time(microseconds: int) -> str | None:
    return datetime.fromtimestamp(microseconds / 1e6, UTC).isoformat() if microseconds else None
