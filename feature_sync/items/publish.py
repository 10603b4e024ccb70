"""Makes the vectors of all changed items under a bundle that is about to be served."""

from __future__ import annotations

import os
from collections.abc import Callable

from feature_sync.core.settings import Settings
from feature_sync.items.feed import newest_sequence
from feature_sync.items.vectors import LiveVectors, position_of
from feature_sync.store.connection import StoreConnection
from feature_sync.towers.item_tower import ItemTower
from feature_sync.towers.texts import TextEmbeddings
from tandem.contract.bundle import Bundle


def publish_item_vectors(settings: Settings, model_version: str, open_bundle: Callable[[], Bundle]) -> int:
    """Updates the vectors of changed items under a version; returns the number of vectors written.

    Opens the bundle only if an item has changed. Raises StoreError, TowerError, TextEncoderError.
    """
    with StoreConnection(settings.store_url) as connection:
        if newest_sequence(connection) <= position_of(connection, model_version):
            return 0
        tower = ItemTower(open_bundle(), TextEmbeddings(threads=os.cpu_count() or 1))
        vectors = LiveVectors(connection, tower, ttl_seconds=settings.vector_ttl_seconds)
        vectors.begin()
        num_written = 0
        while (num_vectors := vectors.update()) is not None:
            num_written += num_vectors
        return num_written
