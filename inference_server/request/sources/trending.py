"""The items with the most interactions lately, read from the online store every few seconds, off the request path."""

from __future__ import annotations

import asyncio
import time
from typing import ClassVar, Final
from weakref import WeakKeyDictionary

import numpy as np

from inference_server.core.degradation import Degraded
from inference_server.model.catalogue.catalogue import Catalogue
from inference_server.model.serving_model import ServingModel
from inference_server.request.flow.types import Encoded
from inference_server.request.sources.source import Source
from inference_server.store.user_store import ReadsStore, StoreFailed
from tandem.contract import names
from tandem.contract.errors import StoreValueError
from tandem.contract.store import TrendingItems, trending_key
from tandem.contract.vocabulary import Keys, Rows

_REFRESH_SECONDS: Final = 2.0
_PATIENCE_SECONDS: Final = 1.0
_MAX_AGE_SECONDS: Final = 60.0
"""A list that could not be refreshed for this long is no longer used."""


class TrendingSource(Source):
    """The same candidates for everyone, from the last list that could be read."""

    name: ClassVar[str] = names.SOURCE_TRENDING
    num_candidates: ClassVar[int] = 0

    def __init__(self, store: ReadsStore) -> None:
        super().__init__(store)
        self._keys: Keys | None = None
        self._read_at = 0.0
        self._rows: WeakKeyDictionary[Catalogue, tuple[Keys, Rows]] = WeakKeyDictionary()
        """By catalogue, of which each model in force has one; a model that left takes its rows along."""

    def propose(self, encoded: Encoded, num_candidates: int) -> Rows | Degraded:
        """See `Source.propose`. TRENDING_UNAVAILABLE where there is no list."""
        rows = self.rows(encoded.model)
        if rows is None:
            return Degraded.TRENDING_UNAVAILABLE
        return np.tile(rows[:num_candidates], (len(encoded.users), 1))

    def rows(self, model: ServingModel) -> Rows | None:
        """Rows of the trending items that this model's catalogue may recommend, best first: (n,) int64; None where
        there is no list."""
        keys = self._keys
        if keys is None or time.monotonic() - self._read_at > _MAX_AGE_SECONDS:
            return None
        catalogue = model.catalogue
        found = self._rows.get(catalogue)
        if found is None or found[0] is not keys:
            found = self._rows[catalogue] = (keys, catalogue.recommendable(catalogue.known_rows(keys)))
        return found[1]

    async def follow(self) -> None:
        """Reads the list every two seconds until it is cancelled."""
        while True:
            await self.refresh()
            await asyncio.sleep(_REFRESH_SECONDS)

    async def refresh(self) -> None:
        """Reads the list once. Keeps the last list where the store fails or holds none."""
        try:
            (value,) = await self._store.read([trending_key()], _PATIENCE_SECONDS)
            if value is not None:
                self._keys, self._read_at = TrendingItems.from_bytes(value).item_keys, time.monotonic()
        except (StoreFailed, StoreValueError):
            return
