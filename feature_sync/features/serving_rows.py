"""The content of the serving keys and of the served bundle, as rows of the feature store's views."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from feature_sync.features.serving_keys import ServingUser
from tandem.contract import names
from tandem.contract.bundle import Bundle
from tandem.contract.items import Item
from tandem.contract.live_items import LiveItemVector
from tandem.contract.streams import AppliedItemChange
from tandem.contract.vocabulary import MISSING_ROW

Rows = dict[str, dict[str, Any]]
"""An entity's row in each view that has one, by view."""


def user_rows(user: ServingUser, model_version: str) -> Rows:
    """The rows of a user."""
    key = {names.USER_ID: user.user_id, names.STATE_REVISION: user.state.revision}
    counts = zip(names.EVENT_COUNTS, map(int, user.state.event_counts), strict=True)
    rows: Rows = {
        names.USER_PROFILE_VIEW: {**user.state.features, **key},
        names.USER_COUNTS_VIEW: {**key, **dict(counts)},
    }
    if user.vector is not None:
        rows[names.USER_VECTOR_VIEW] = {
            **key,
            names.STATE_REVISION: user.vector.state_revision,
            names.MODEL_VERSION: model_version,
            names.USER_VECTOR: user.vector.values.tolist(),
        }
    return rows


@dataclass(frozen=True, kw_only=True)
class ServingCatalogue:
    """The items as requests see them: those of the bundle, and the changes since."""

    bundle: Bundle
    changes: Mapping[str, AppliedItemChange]
    """The newest change of every item that has changed, by id."""
    vectors: Mapping[str, LiveItemVector]
    """Vectors of changed items under this bundle, by id."""

    def item_ids(self) -> list[str]:
        """Ids of all items, those of the bundle first."""
        in_bundle = self.bundle.items.item_ids(range(len(self.bundle.items)))
        return [*in_bundle, *sorted(self.changes.keys() - set(in_bundle))]

    def rows(self, item_ids: Sequence[str]) -> dict[str, Rows]:
        """The rows of some items, by id."""
        bundle_rows = self.bundle.item_vocabulary.rows(item_ids).tolist()
        return {item_id: self._rows(item_id, row) for item_id, row in zip(item_ids, bundle_rows, strict=True)}

    def _rows(self, item_id: str, bundle_row: int) -> Rows:
        manifest = self.bundle.manifest
        item = self.bundle.items.item(bundle_row) if bundle_row != MISSING_ROW else None
        applied = self.changes.get(item_id)
        vector = self.bundle.item_vectors[bundle_row].tolist() if item is not None else None
        vector_sequence = 0
        if applied is not None and applied.sequence > manifest.catalogue_sequence:
            item = _changed(item, applied)
            live = self.vectors.get(item_id)
            if live is not None:
                vector, vector_sequence = live.values.tolist(), live.change_sequence
        key = {names.ITEM_ID: item_id, names.MODEL_VERSION: manifest.model_version}
        rows: Rows = {}
        if item is not None:
            rows[names.ITEM_PROFILE_VIEW] = {
                **key,
                names.TITLE: item.title,
                names.CATEGORIES: list(item.categories),
                names.ATTRIBUTES: _json(item.attributes),
                names.AVAILABLE: item.available,
                names.POPULARITY: item.popularity,
                names.CHANGE_SEQUENCE: applied.sequence if applied is not None else 0,
            }
        if vector is not None:
            rows[names.ITEM_VECTOR_VIEW] = {
                **key,
                names.ITEM_VECTOR: vector,
                names.CHANGE_SEQUENCE: vector_sequence,
            }
        return rows


def _changed(item: Item | None, applied: AppliedItemChange) -> Item:
    change = applied.change
    return Item(
        item_id=change.item_id,
        title=change.title,
        categories=tuple(change.categories),
        attributes=change.attributes,
        popularity=item.popularity if item is not None else 0,
        available=change.available and not change.deleted,
    )


def _json(attributes: Mapping[str, str]) -> str:
    return json.dumps(dict(attributes), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
