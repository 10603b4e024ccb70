"""A cache of the filters of recent requests: their masks, and long exclude lists.

A mask names rows, so every catalogue has its own masks. A list holds keys, which mean the same in every catalogue of a
model, so these catalogues share their lists: a change of one item does not make clients' long lists unknown.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Final, TypeVar

from inference_server.core.query import Clause
from inference_server.core.request_warnings import RequestWarning
from inference_server.model.catalogue.item_mask import ItemMask
from tandem.contract.vocabulary import Keys

_MAX_MASKS: Final = 64
"""Masks kept of each kind, with and without an exclude list; at a million items, 64 masks take 8 MB."""
_MAX_LISTS: Final = 64
"""Exclude lists kept; with 10,000 ids each, they take 5 MB."""

_K = TypeVar("_K")
_V = TypeVar("_V")


class NewestEntries(OrderedDict[_K, _V]):
    """A mapping that holds at most `max_entries` entries: `add` drops the oldest entry of a full mapping."""

    def __init__(self, max_entries: int) -> None:
        super().__init__()
        self._max_entries = max_entries

    def add(self, key: _K, value: _V) -> _V:
        """Adds an entry. Returns its value."""
        self[key] = value
        if len(self) > self._max_entries:
            self.popitem(last=False)
        return value


@dataclass(frozen=True, slots=True)
class FilterCache:
    """The recent filters of one catalogue."""

    lists: NewestEntries[bytes, Keys] = field(default_factory=lambda: NewestEntries(_MAX_LISTS))
    """Keys of the items of long exclude lists, (n,) uint64, by the digest of the list."""
    masks: NewestEntries[tuple[Clause, ...], ItemMask] = field(default_factory=lambda: NewestEntries(_MAX_MASKS))
    """By clauses."""
    masks_without_list: NewestEntries[tuple[tuple[Clause, ...], bytes], ItemMask] = field(
        default_factory=lambda: NewestEntries(_MAX_MASKS)
    )
    """By clauses and the digest of the exclude list."""
    warnings: NewestEntries[tuple[Clause, ...], tuple[RequestWarning, ...]] = field(
        default_factory=lambda: NewestEntries(_MAX_MASKS)
    )
    """By clauses, of which the first is the request's."""

    def with_same_lists(self) -> FilterCache:
        """A cache for another catalogue of the same model: no masks yet, and the same lists."""
        return FilterCache(self.lists)
