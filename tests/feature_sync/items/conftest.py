"""A model trained with texts, item changes, and the store's keys of the live catalogue."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from feature_sync.items.applier import ItemChangeApplier
from feature_sync.items.numbering import Numbering
from feature_sync.store.connection import StoreConnection
from feature_sync.stream.consumer import Parsed
from feature_sync.telemetry.metrics import Metrics
from tandem.contract.live_items import (
    ItemPlace,
    LiveItemVector,
    item_places_key,
    item_vectors_feed,
    items_feed,
)
from tandem.contract.streams import ENTRY_FIELD, ITEM_CHANGES, AppliedItemChange, ItemChange, applied_key, stream_key
from tests.support.trained import TrainedModel, train_checkerboard

NOW = 1_800_000_000_000_000
"""Microseconds since 1970."""


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> TrainedModel:
    return train_checkerboard(tmp_path_factory.mktemp("trained"))


def change(item_id: str, second: int = 0, **fields: object) -> ItemChange:
    """An item change, `second` seconds after NOW; `fields` override."""
    default = ItemChange(
        item_id=item_id, changed_at=NOW + 1_000_000 * second, title="A black square", categories=("black",)
    )
    return dataclasses.replace(default, **fields)  # type: ignore[arg-type]


def no_numbers() -> Numbering:
    """A numbering without an archive and without a live bundle."""
    return Numbering(Path("nowhere"), lambda: 0)


class LiveCatalogue:
    """The stream of item changes, and the store's keys of the live catalogue."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.client = redis.Redis.from_url(url, protocol=2)
        self.connection = StoreConnection(url)
        self.metrics = Metrics()
        self.num_wakes = 0

    def append(self, *changes: ItemChange | bytes) -> None:
        for entry in changes:
            payload = entry if isinstance(entry, bytes) else entry.to_bytes()
            self.client.xadd(stream_key(ITEM_CHANGES), {ENTRY_FIELD: payload})

    def applier(self) -> ItemChangeApplier:
        """A new applier with its own connection."""

        def wake() -> None:
            self.num_wakes += 1

        return ItemChangeApplier(
            StoreConnection(self.url),
            numbering=no_numbers(),
            metrics=self.metrics.of_stream(ITEM_CHANGES),
            on_applied=wake,
        )

    def apply(self, *changes: ItemChange) -> None:
        """Applies changes in one batch, without a stream."""
        self.applier().apply([Parsed(payload=item_change.to_bytes(), value=item_change) for item_change in changes], [])

    def entry(self, item_id: str) -> AppliedItemChange | None:
        value = self.client.hget(items_feed().values, item_id)
        return None if value is None else AppliedItemChange.from_bytes(value)

    def place(self, item_id: str) -> ItemPlace:
        return ItemPlace.from_bytes(self.client.hget(item_places_key(), item_id))

    def changed(self, after: int = 0) -> list[str]:
        """Ids of items whose newest change has a sequence above `after`, as a worker reads them."""
        return [raw.decode() for raw in self.client.zrangebyscore(items_feed().changes, f"({after}", "+inf")]

    @property
    def sequence(self) -> int:
        return int(self.client.get(items_feed().sequence) or 0)

    def log(self) -> list[AppliedItemChange]:
        entries = self.client.xrange(applied_key(ITEM_CHANGES))
        return [AppliedItemChange.from_bytes(fields[ENTRY_FIELD]) for _, fields in entries]

    def vectors(self, model_version: str) -> dict[str, LiveItemVector]:
        found = self.client.hgetall(item_vectors_feed(model_version).values)
        return {item_id.decode(): LiveItemVector.from_bytes(value) for item_id, value in found.items()}

    def count(self, name: str, **labels: str) -> float:
        return self.metrics.registry.get_sample_value(name, labels) or 0.0


@pytest.fixture
def catalogue(store_url: str) -> Iterator[LiveCatalogue]:
    live = LiveCatalogue(store_url)
    yield live
    live.client.close()
    live.connection.close()
