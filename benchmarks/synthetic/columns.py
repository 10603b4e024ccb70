"""The columns of a synthetic catalogue.

Items lie in clusters, and clusters in groups, because the recall of an IVF index on random vectors says nothing about
trained vectors; popularity follows Zipf's law. Everything is a numpy or Arrow column: a million `Item` objects would
take minutes and gigabytes. Content neighbours come from the item's own cluster only, because a million items have too
many pairs.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from tandem.contract import items as contract_items
from tandem.contract import names
from tandem.contract.bundle_contents import Content
from tandem.contract.item_item import ItemItem
from tandem.contract.items import ItemTable
from tandem.contract.vocabulary import MISSING_ROW, Rows

NUM_BRANDS: Final = 200
BRAND: Final = "brand"
PRICE: Final = "price"

_TOP_ITEMS: Final = 500
_CHUNK: Final = 100_000
_NOISE: Final = 0.8
"""Distance of an item from its cluster's centre, a vector of length 1."""


def clustered(rng: np.random.Generator, clusters: Rows, num_clusters: int, dim: int) -> npt.NDArray[np.float32]:
    """(items, dim) float32 of length 1 around their clusters' centres, which lie around the centres of their groups."""
    num_groups = max(4, num_clusters // 60)
    groups = _directions(rng, num_groups, dim)
    centres = groups[rng.integers(num_groups, size=num_clusters)] + _directions(rng, num_clusters, dim)
    centres /= np.linalg.norm(centres, axis=1, keepdims=True)
    vectors = np.empty((len(clusters), dim), dtype=np.float32)
    for start in range(0, len(clusters), _CHUNK):
        chunk = clusters[start : start + _CHUNK]
        part = centres[chunk] + _NOISE * _directions(rng, len(chunk), dim)
        vectors[start : start + len(chunk)] = part / np.linalg.norm(part, axis=1, keepdims=True)
    return vectors


def _directions(rng: np.random.Generator, count: int, dim: int) -> npt.NDArray[np.float32]:
    drawn = rng.standard_normal((count, dim), dtype=np.float32)
    drawn /= np.linalg.norm(drawn, axis=1, keepdims=True)
    return drawn


def zipf_popularity(rng: np.random.Generator, num_items: int) -> npt.NDArray[np.int64]:
    """(items,) int64: number of interactions, at least 1, by Zipf's law over randomly assigned ranks."""
    ranks = rng.permutation(num_items)
    weights = 1.0 / (ranks + 10.0)
    total = 20.0 * num_items
    return np.maximum(1, (weights / weights.sum() * total)).astype(np.int64)


def item_table(
    rng: np.random.Generator,
    item_ids: list[str],
    own_categories: Rows,
    categories: list[str],
    popularity: npt.NDArray[np.int64],
) -> ItemTable:
    """Items with their cluster's category, a brand (text) and a price (number); half of them have a second category."""
    num_items = len(item_ids)
    ids = pa.array(item_ids, pa.string())
    second = np.where(rng.random(num_items) < 0.5, rng.integers(len(categories), size=num_items), -1)
    second[second == own_categories] = -1
    pairs = np.stack([own_categories, second], axis=1).ravel()
    offsets = np.concatenate([[0], np.cumsum(1 + (second >= 0))]).astype(np.int32)
    flat = pa.array(categories, pa.string()).take(pa.array(pairs[pairs >= 0]))
    brand_numbers = np.minimum(rng.zipf(1.4, size=num_items), NUM_BRANDS) - 1
    brands = pa.array([f"brand-{number}" for number in range(NUM_BRANDS)], pa.string()).take(pa.array(brand_numbers))
    prices = pc.cast(pa.array(np.round(rng.lognormal(3.0, 1.0, size=num_items), 2)), pa.string())
    # A map array needs brand and price of an item side by side.
    values = pa.concat_arrays([brands, prices]).take(
        pa.array(np.stack([np.arange(num_items), np.arange(num_items) + num_items], axis=1).ravel())
    )
    keys = pa.array([BRAND, PRICE], pa.string()).take(pa.array(np.tile([0, 1], num_items)))
    map_offsets = pa.array(np.arange(0, 2 * num_items + 1, 2, dtype=np.int32))
    columns: dict[str, Any] = {
        names.ITEM_ID: ids,
        names.TITLE: pc.binary_join_element_wise(pa.scalar("Title of"), ids, " "),
        names.CATEGORIES: pa.ListArray.from_arrays(pa.array(offsets), flat),
        names.ATTRIBUTES: pa.MapArray.from_arrays(map_offsets, keys, values),
        names.POPULARITY: pa.array(popularity, pa.int64()),
        names.AVAILABLE: pa.array(np.ones(num_items, dtype=np.bool_)),
    }
    arrays = [columns[name] for name in contract_items.SCHEMA.names]
    return ItemTable(pa.Table.from_arrays(arrays, schema=contract_items.SCHEMA))


def content_of(
    rng: np.random.Generator, clusters: Rows, *, num_clusters: int, dim: int, num_neighbours: int
) -> Content:
    """Content vectors around new random centres, and each item's nearest neighbours by content in its cluster.

    Vectors are (items, dim) float16; neighbours are (items, num_neighbours) int32, padded with -1.
    """
    vectors = clustered(rng, clusters, num_clusters, dim)
    neighbours = np.full((len(clusters), num_neighbours), -1, dtype=np.int32)
    order = np.argsort(clusters, kind="stable")
    for rows in np.split(order, np.cumsum(np.bincount(clusters, minlength=num_clusters))[:-1]):
        similarities = vectors[rows] @ vectors[rows].T  # (members, members) float32
        np.fill_diagonal(similarities, -np.inf)
        k = min(num_neighbours, len(rows) - 1)
        if k > 0:
            neighbours[rows, :k] = rows[np.argsort(-similarities, axis=1)[:, :k]]
    return Content(vectors.astype(np.float16), neighbours)


def item_item_of(rng: np.random.Generator, clusters: Rows, *, num_clusters: int, num: int) -> ItemItem:
    """An item-item source in which each item raises `num` random items of its cluster, the first of them most."""
    rows = np.full((len(clusters), num), MISSING_ROW, dtype=np.int32)
    for members in np.split(
        np.argsort(clusters, kind="stable"), np.cumsum(np.bincount(clusters, minlength=num_clusters))[:-1]
    ):
        for row in members:
            others = rng.permutation(members[members != row])[:num]
            rows[row, : len(others)] = others
    weights = np.where(rows == MISSING_ROW, 0.0, np.linspace(0.5, 0.01, num)).astype(np.float16)
    return ItemItem(rows, weights)


def top_items(
    popularity: npt.NDArray[np.int64], own_categories: Rows, categories: list[str]
) -> dict[str, npt.NDArray[np.int64]]:
    """Segment -> rows of its most popular items, best first."""
    order = np.argsort(-popularity, kind="stable")
    segments = {names.SEGMENT_ALL: order[:_TOP_ITEMS]}
    for code, category in enumerate(categories):
        segments[names.CATEGORY_SEGMENT + category] = order[own_categories[order] == code][:_TOP_ITEMS]
    return segments
