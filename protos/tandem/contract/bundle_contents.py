"""The contents of a bundle in memory: what `bundle.write_bundle` takes and `bundle.read_bundle` returns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from tandem.contract.features import Tensors
from tandem.contract.held_out_users import HeldOutUser
from tandem.contract.item_item import ItemItem
from tandem.contract.items import ItemTable
from tandem.contract.vocabulary import Vocabulary


@dataclass(frozen=True)
class GoldenQueries:
    """Queries with known answers, which a bundle must reproduce before it serves."""

    inputs: Tensors
    """Inputs of the user tower, (queries, ...) each."""
    expected_rows: npt.NDArray[np.int64]
    """(queries, k) int64: the nearest items by exact search over the item vectors, best first."""


@dataclass(frozen=True)
class Content:
    """What texts and categories say about items, independent of behaviour."""

    vectors: npt.NDArray[np.float16]
    """(items, content_dim) float16, of length 1; zero for an item without text and categories."""
    neighbours: npt.NDArray[np.int32]
    """(items, neighbours) int32: the rows with the highest inner products, best first, padded with -1."""


@dataclass(frozen=True, kw_only=True)
class BundleContents:
    """What is written into a bundle and read from it."""

    user_tower: Path
    item_tower: Path
    index: Path
    item_vectors: npt.NDArray[np.float32]
    """(items, dim) float32."""
    items: ItemTable
    item_vocabulary: Vocabulary
    top_items: Mapping[str, npt.NDArray[np.int64]]
    """Rows of each segment's most popular items, best first: (n,) int64. The segment `SEGMENT_ALL` is required."""
    golden_queries: GoldenQueries
    held_out_users: tuple[HeldOutUser, ...]
    user_vocabulary: Vocabulary | None = None
    """Present if and only if the feature schema has user ids."""
    content: Content | None = None
    """Present if and only if the manifest's blend has content."""
    item_item: ItemItem | None = None
    """Present if and only if the manifest's blend has the item-item source."""
    sequential: ItemItem | None = None
    """Present if and only if the manifest's blend has the sequential source."""
    event_counts: npt.NDArray[np.uint32] | None = None
    """(items, 6) uint32, users who chose each item, by the types of their events in the order of names.EVENT_TYPES; a
    user with events of several types counts under each. None where the data have one type."""
    ranker: Path | None = None
    """Present if and only if the manifest has a ranker."""


@dataclass(frozen=True, kw_only=True)
class BundleParts(BundleContents):
    """Input of `write_bundle`. Files are copied."""

    model_card: str = ""
    """Markdown; empty: the bundle gets no model card."""
