"""The files of a bundle: one table, from which bundles are written, opened, checked and documented.

A new file is an entry of `BUNDLE_FILES` and a field of `bundle_contents.BundleContents`. `manifest.json` is not in the
table: it lists the files that are. docs/reference/bundle.md shows the table.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Generic, TypeVar

import numpy as np

from tandem.contract.bundle_contents import BundleParts
from tandem.contract.file_formats import (
    BUCKETS,
    CONTENT_DIM,
    DIM,
    ITEMS,
    CopiedFile,
    CustomFormat,
    FileFormat,
    NpyArray,
    read_archive,
    read_golden_queries,
    write_archive,
    write_golden_queries,
)
from tandem.contract.held_out_users import read_held_out_users, write_held_out_users
from tandem.contract.items import ItemTable, read_category_rows, write_category_rows
from tandem.contract.manifest import Manifest

Value = TypeVar("Value")

EVENT_COUNTS_FILE: Final = "event_counts.npy"


@dataclass(frozen=True)
class Condition:
    """When a reader needs a file."""

    text: str
    """In words, for the reference page."""
    holds: Callable[[Manifest], bool]


ALWAYS: Final = Condition("always", lambda _: True)
NEVER: Final = Condition("never: it is for people", lambda _: False)
WITH_USER_IDS: Final = Condition("if the user tower reads ids", lambda manifest: manifest.feature_schema.user_ids)
WITH_CONTENT: Final = Condition(
    "if the blend has content", lambda manifest: manifest.blend is not None and manifest.blend.content is not None
)
WITH_ITEM_ITEM: Final = Condition(
    "if the blend has the item-item source",
    lambda manifest: manifest.blend is not None and manifest.blend.item_item is not None,
)
WITH_SEQUENTIAL: Final = Condition(
    "if the blend has the sequential source",
    lambda manifest: manifest.blend is not None and manifest.blend.sequential is not None,
)
WITH_EVENT_COUNTS: Final = Condition(
    "if the data have several types of events", lambda manifest: EVENT_COUNTS_FILE in manifest.files
)
WITH_RANKER: Final = Condition("if there is an ONNX ranker", lambda manifest: manifest.ranker is not None)


@dataclass(frozen=True, kw_only=True)
class BundleFile(Generic[Value]):
    """One file of a bundle."""

    name: str
    format: FileFormat[Value]
    description: str
    part: Callable[[BundleParts], Value | None]
    """The value to write; None: this bundle has no such file."""
    needed_when: Condition = ALWAYS
    derived_from: tuple[str, ...] = ()
    """Files that this one follows from. Processes that serve the same bundle share it because it is a file; where an
    older bundle lacks it, each process computes its own."""

    def is_required(self, manifest: Manifest) -> bool:
        """Whether a bundle without this file is refused."""
        return self.needed_when.holds(manifest) and not self.derived_from

    def is_opened(self, manifest: Manifest) -> bool:
        """Whether a reader opens this file."""
        return self.needed_when.holds(manifest) and self.name in manifest.files

    def write(self, directory: Path, parts: BundleParts) -> None:
        """Writes the file into `directory`, if `parts` has a value for it."""
        value = self.part(parts)
        if value is not None:
            self.format.write(directory / self.name, value)


USER_TOWER: Final = BundleFile(
    name="user_tower.onnx",
    format=CopiedFile("ONNX model"),
    description="state -> user vector; the constants of `contract/names.py` name its tensors",
    part=lambda parts: parts.user_tower,
)
ITEM_TOWER: Final = BundleFile(
    name="item_tower.onnx",
    format=CopiedFile("ONNX model"),
    description="item features -> item vector",
    part=lambda parts: parts.item_tower,
)
INDEX: Final = BundleFile(
    name="index.faiss",
    format=CopiedFile("FAISS index"),
    description="IVF index over the item vectors; FAISS id i is row i",
    part=lambda parts: parts.index,
)
ITEM_TABLE: Final = BundleFile(
    name="items.arrow",
    format=CustomFormat("Arrow table", lambda path, items: items.write(path), ItemTable.read),
    description="the item table: what is known about each item, in row order",
    part=lambda parts: parts.items,
)
ITEM_KEYS: Final = BundleFile(
    name="item_keys.npy",
    format=NpyArray(np.uint64, ("keys",), "is {dtype} {shape}, not uint64 for every item"),
    description="the item vocabulary: the key of each row",
    part=lambda parts: parts.item_vocabulary.keys,
)
SORTED_ITEM_KEYS: Final = BundleFile(
    name="sorted_item_keys.npy",
    format=NpyArray(np.uint64, ("keys",), "is {dtype} {shape}, not uint64 for every item"),
    description="the keys in ascending order",
    part=lambda parts: parts.item_vocabulary.lookup.keys,
    derived_from=(ITEM_KEYS.name,),
)
SORTED_ITEM_ROWS: Final = BundleFile(
    name="sorted_item_rows.npy",
    format=NpyArray(np.int64, ("keys",), "is {dtype} {shape}, not int64 for every item"),
    description="the row of each sorted key",
    part=lambda parts: parts.item_vocabulary.lookup.rows,
    derived_from=(ITEM_KEYS.name,),
)
ITEM_KEY_BUCKETS: Final = BundleFile(
    name="item_key_buckets.npy",
    format=NpyArray(np.int32, (BUCKETS,), "is {dtype} {shape}, not int32 for 2^n buckets and one"),
    description="offset of the first sorted key of each bucket; a key's leading bits are the number of its bucket",
    part=lambda parts: parts.item_vocabulary.lookup.bucket_starts,
    derived_from=(SORTED_ITEM_KEYS.name,),
)
POPULARITY_ORDER: Final = BundleFile(
    name="popularity_order.npy",
    format=NpyArray(np.int64, (ITEMS,), "is {dtype} {shape}, not int64 for every item"),
    description="all rows, most popular first, equally popular ones in row order",
    part=lambda parts: parts.items.rows_by_popularity(),
    derived_from=(ITEM_TABLE.name,),
)
CATEGORY_ROWS: Final = BundleFile(
    name="category_rows.arrow",
    format=CustomFormat("Arrow table", write_category_rows, read_category_rows),
    description="the rows that have each category, ascending",
    part=lambda parts: parts.items.rows_by_category(),
    derived_from=(ITEM_TABLE.name,),
)
ITEM_VECTORS: Final = BundleFile(
    name="item_vectors.npy",
    format=NpyArray(
        np.float32, (ITEMS, DIM), "is {dtype} {shape}, {items} items of embedding_dim {dim} need float32 of that shape"
    ),
    description="the output of the item tower for each row",
    part=lambda parts: parts.item_vectors,
)
TOP_ITEMS: Final = BundleFile(
    name="top_items.npz",
    format=CustomFormat("archive of (n,) int64", write_archive, read_archive),
    description="rows of each segment's most popular items, best first",
    part=lambda parts: parts.top_items,
)
GOLDEN_QUERIES: Final = BundleFile(
    name="golden_queries.npz",
    format=CustomFormat("archive of arrays", write_golden_queries, read_golden_queries),
    description="inputs of the user tower, with the rows that were the right answers when the bundle was written",
    part=lambda parts: parts.golden_queries,
)
HELD_OUT_USERS: Final = BundleFile(
    name="held_out_users.jsonl",
    format=CustomFormat("JSON lines", write_held_out_users, read_held_out_users),
    description="users with the item they chose next, to evaluate the bundle as it is served",
    part=lambda parts: parts.held_out_users,
)
USER_KEYS: Final = BundleFile(
    name="user_keys.npy",
    format=NpyArray(np.uint64, ("users",), "is {dtype} in {ndim} dimensions, not uint64 in 1"),
    description="the user vocabulary: the key of each user's row",
    part=lambda parts: parts.user_vocabulary.keys if parts.user_vocabulary is not None else None,
    needed_when=WITH_USER_IDS,
)
CONTENT_VECTORS: Final = BundleFile(
    name="content_vectors.npy",
    format=NpyArray(np.float16, (ITEMS, CONTENT_DIM), "is {dtype} {shape}, {items} items need float16 in 2 dimensions"),
    description="content vectors of length 1; zero for an item without text and categories",
    part=lambda parts: parts.content.vectors if parts.content is not None else None,
    needed_when=WITH_CONTENT,
)
CONTENT_NEIGHBOURS: Final = BundleFile(
    name="content_neighbours.npy",
    format=NpyArray(
        np.int32, (ITEMS, "content_neighbours"), "is {dtype} {shape}, {items} items need int32 in 2 dimensions"
    ),
    description="the rows whose content is nearest, best first, padded with -1",
    part=lambda parts: parts.content.neighbours if parts.content is not None else None,
    needed_when=WITH_CONTENT,
)
ITEM_ITEM_ROWS: Final = BundleFile(
    name="item_item_rows.npy",
    format=NpyArray(
        np.int32, (ITEMS, "item_item_neighbours"), "is {dtype} {shape}, {items} items need int32 in 2 dimensions"
    ),
    description="neighbours by the item-item source, highest weight first, padded with -1",
    part=lambda parts: parts.item_item.rows if parts.item_item is not None else None,
    needed_when=WITH_ITEM_ITEM,
)
ITEM_ITEM_WEIGHTS: Final = BundleFile(
    name="item_item_weights.npy",
    format=NpyArray(
        np.float16,
        (ITEMS, "item_item_neighbours"),
        "is {dtype} {shape}, item_item_rows.npy needs float16 of its shape ({items}, {item_item_neighbours})",
    ),
    description="what an item in a history adds to the score of each neighbour",
    part=lambda parts: parts.item_item.weights if parts.item_item is not None else None,
    needed_when=WITH_ITEM_ITEM,
)
SEQUENTIAL_ROWS: Final = BundleFile(
    name="sequential_rows.npy",
    format=NpyArray(
        np.int32, (ITEMS, "sequential_neighbours"), "is {dtype} {shape}, {items} items need int32 in 2 dimensions"
    ),
    description="items that follow each item, by the sequential source, highest weight first, padded with -1",
    part=lambda parts: parts.sequential.rows if parts.sequential is not None else None,
    needed_when=WITH_SEQUENTIAL,
)
SEQUENTIAL_WEIGHTS: Final = BundleFile(
    name="sequential_weights.npy",
    format=NpyArray(
        np.float16,
        (ITEMS, "sequential_neighbours"),
        "is {dtype} {shape}, sequential_rows.npy needs float16 of its shape ({items}, {sequential_neighbours})",
    ),
    description="what an item in a history adds to the score of each item that follows it",
    part=lambda parts: parts.sequential.weights if parts.sequential is not None else None,
    needed_when=WITH_SEQUENTIAL,
)
EVENT_COUNTS: Final = BundleFile(
    name=EVENT_COUNTS_FILE,
    format=NpyArray(np.uint32, (ITEMS, "event_types"), "is {dtype} {shape}, {items} items need uint32 in 2 dimensions"),
    description="users who chose each item, by the types of their events: a policy's objectives read it",
    part=lambda parts: parts.event_counts,
    needed_when=WITH_EVENT_COUNTS,
)
RANKER: Final = BundleFile(
    name="ranker.onnx",
    format=CopiedFile("ONNX model"),
    description="user and candidate features -> score",
    part=lambda parts: parts.ranker,
    needed_when=WITH_RANKER,
)
MODEL_CARD: Final = BundleFile(
    name="MODEL_CARD.md",
    format=CustomFormat("Markdown", Path.write_text, Path.read_text),
    description="what the model is, how it was measured, its limits; older bundles have none",
    part=lambda parts: parts.model_card or None,
    needed_when=NEVER,
)

BUNDLE_FILES: Final[tuple[BundleFile[Any], ...]] = (
    USER_TOWER,
    ITEM_TOWER,
    INDEX,
    ITEM_TABLE,
    ITEM_KEYS,
    SORTED_ITEM_KEYS,
    SORTED_ITEM_ROWS,
    ITEM_KEY_BUCKETS,
    POPULARITY_ORDER,
    CATEGORY_ROWS,
    ITEM_VECTORS,
    TOP_ITEMS,
    GOLDEN_QUERIES,
    HELD_OUT_USERS,
    USER_KEYS,
    CONTENT_VECTORS,
    CONTENT_NEIGHBOURS,
    ITEM_ITEM_ROWS,
    ITEM_ITEM_WEIGHTS,
    SEQUENTIAL_ROWS,
    SEQUENTIAL_WEIGHTS,
    EVENT_COUNTS,
    RANKER,
    MODEL_CARD,
)


class OpenedFiles:
    """The values of a bundle's files."""

    def __init__(self, directory: Path, manifest: Manifest) -> None:
        """Opens every file of `manifest` that a reader needs. Raises BundleCorrupt when one is unreadable."""
        self._values: dict[str, Any] = {
            file.name: file.format.read(directory / file.name) for file in BUNDLE_FILES if file.is_opened(manifest)
        }

    def __getitem__(self, file: BundleFile[Value]) -> Value:
        value: Value = self._values[file.name]
        return value

    def get(self, file: BundleFile[Value]) -> Value | None:
        """The value of a file, None where it was not opened."""
        value: Value | None = self._values.get(file.name)
        return value

    def __contains__(self, file: BundleFile[Any]) -> bool:
        return file.name in self._values

    def check_arrays(self, *, dim: int) -> None:
        """Checks dtype and shape of every array; `dim` is the manifest's. Raises BundleIncompatible."""
        sizes = {ITEMS: len(self[ITEM_TABLE]), DIM: dim}
        for file in BUNDLE_FILES:
            if file in self and isinstance(file.format, NpyArray):
                file.format.check(file.name, self[file], sizes)
