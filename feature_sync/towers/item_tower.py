"""Runs a bundle's item tower, which makes vectors from the catalogue's data of items, as in training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from feature_sync.towers.checked_tower import CheckedTower
from feature_sync.towers.texts import TextEmbeddings
from tandem.contract import names
from tandem.contract.bundle import Bundle
from tandem.contract.item_features import encode_item_index, encode_items, item_text
from tandem.contract.streams import ItemChange
from tandem.contract.vocabulary import MISSING_ROW


@dataclass(frozen=True, kw_only=True)
class ItemVectors:
    """Vectors of some items."""

    values: npt.NDArray[np.float32]
    """(items, dim) float32."""
    is_known: npt.NDArray[np.bool_]
    """(items,) bool: False for items without an id, text or category that the tower knows. They would all have the
    vector of an unknown item, which says nothing about who may like them."""


class ItemTower:
    """The item tower of one bundle with the text encoder that it was trained on."""

    def __init__(self, bundle: Bundle, texts: TextEmbeddings) -> None:
        """Opens the tower. Raises TowerError."""
        self.manifest = bundle.manifest
        self._vocabulary = bundle.item_vocabulary
        self._popularity = bundle.items.popularity
        self._texts = texts
        # One thread, because this runs beside the threads that apply events, which have priority.
        self._tower = CheckedTower(bundle.item_tower, threads=1)

    def vectors(self, items: Sequence[ItemChange]) -> ItemVectors:
        """Vectors of items that are not deleted; at least one. Raises TowerError, TextEncoderError."""
        schema = self.manifest.feature_schema
        rows = self._vocabulary.rows([item.item_id for item in items])
        popularity = np.where(rows == MISSING_ROW, 0, self._popularity[rows])
        encoded = encode_items(
            schema=schema,
            item_index=encode_item_index(rows, popularity),
            text_embeddings=self._texts.embed(
                [item_text(item.title, item.description, item.categories) for item in items], schema
            ),
            categories=[item.categories for item in items],
        )
        is_read = {spec.name for spec in self.manifest.item_tower.inputs}
        inputs = {name: array for name, array in encoded.items() if name in is_read}
        is_known = np.any([array.reshape(len(items), -1).any(axis=1) for array in inputs.values()], axis=0)
        values = self._tower.run(inputs, names.ITEM_VECTOR, (len(items), self.manifest.embedding_dim))
        return ItemVectors(values=values, is_known=is_known)
