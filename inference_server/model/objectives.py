"""The values of items under a policy's objectives."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import numpy as np
import numpy.typing as npt

from tandem.contract.bundle import Bundle
from tandem.contract.names import EVENT_TYPES
from tandem.contract.objectives import log_values

_MAX_KEPT: Final = 32
"""Arrays of 4 bytes an item."""


class ItemValues:
    """The values of one bundle's items, computed once for each policy's objectives."""

    def __init__(self, bundle: Bundle) -> None:
        self._bundle = bundle
        self._by_weights: dict[tuple[tuple[str, float], ...], npt.NDArray[np.float32]] = {}

    @property
    def event_types(self) -> frozenset[str]:
        """The types of events that the bundle's data have; empty where they all have the same, and in older bundles."""
        counts = self._bundle.event_counts
        return frozenset() if counts is None else frozenset(np.array(EVENT_TYPES)[counts.any(axis=0)].tolist())

    def of_rows(self, rows: npt.NDArray[np.int64], weights: Mapping[str, float]) -> npt.NDArray[np.float32]:
        """(n,) rows -> (n,) float32, see `objectives.log_values`; 0 for live items, whose rates are not known, and for
        all items where the data have one type of events."""
        counts = self._bundle.event_counts
        if counts is None:
            return np.zeros(len(rows), dtype=np.float32)
        key = tuple(sorted(weights.items()))
        values = self._by_weights.get(key)
        if values is None:
            if len(self._by_weights) >= _MAX_KEPT:  # policies that were replaced
                self._by_weights.clear()
            values = self._by_weights[key] = log_values(counts, self._bundle.items.popularity, weights)
        is_known = rows < len(values)
        return np.where(is_known, values[np.where(is_known, rows, 0)], np.float32(0.0))
