"""The items that are trending now: read from the online store every few seconds, off the request path."""

from __future__ import annotations

import asyncio
import time
from typing import Final

import numpy as np
import numpy.typing as npt

from inference_server.model.catalogue.catalogue import Catalogue
from inference_server.model.serving_model import ServingModel
from inference_server.store.user_store import ReadsStore, StoreFailed
from tandem.contract.errors import StoreValueError
from tandem.contract.store import TrendingItems, trending_key
from tandem.contract.vocabulary import Keys

_REFRESH_SECONDS: Final = 2.0
_PATIENCE_SECONDS: Final = 1.0
_MAX_AGE_SECONDS: Final = 60.0
"""A list that could not be read again for so long is trending no more."""


class TrendingList:
    """The newest list that could be read."""

    def __init__(self, store: ReadsStore) -> None:
        self._store = store
        self._keys: Keys | None = None
        self._read_at = 0.0
        self._rows: tuple[Catalogue, Keys, npt.NDArray[np.int64]] | None = None

    def rows(self, model: ServingModel) -> npt.NDArray[np.int64] | None:
        """Rows of the items that this model's catalogue has to recommend, best first: (n,) int64. None where no list
        is known."""
        keys = self._keys
        if keys is None or time.monotonic() - self._read_at > _MAX_AGE_SECONDS:
            return None
        catalogue = model.catalogue
        if self._rows is None or self._rows[0] is not catalogue or self._rows[1] is not keys:
            self._rows = (catalogue, keys, catalogue.recommendable(catalogue.known_rows(keys)))
        return self._rows[2]

    async def run(self) -> None:
        """Reads the list until it is cancelled."""
        while True:
            await self.refresh()
            await asyncio.sleep(_REFRESH_SECONDS)

    async def refresh(self) -> None:
        """Reads the list once. A store that fails, or holds none, leaves the one that is known."""
        try:
            (value,) = await self._store.read([trending_key()], _PATIENCE_SECONDS)
            if value is not None:
                self._keys, self._read_at = TrendingItems.from_bytes(value).item_keys, time.monotonic()
        except (StoreFailed, StoreValueError):
            return
