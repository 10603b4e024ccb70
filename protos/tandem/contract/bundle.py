"""The bundle: one directory that holds everything one model version needs to be served.

`write_bundle` writes it, `read_bundle` checks and opens it, and nothing else knows its layout:

    manifest.json          what it is, what it was made from, and size and SHA-256 of every other file
    user_tower.onnx        state -> user vector; its tensors are named in `names`
    item_tower.onnx        item features -> item vector
    index.faiss            FAISS IVF index over the item vectors; FAISS id i is row i
    item_vectors.npy       (items, dim) float32, mapped into memory
    item_keys.npy          (items,) uint64: the item vocabulary
    sorted_item_keys.npy   (items,) uint64: its keys in ascending order
    sorted_item_rows.npy   (items,) int64: their rows
    item_key_buckets.npy   (buckets + 1,) int32: where among the sorted keys each value of their leading bits begins
    popularity_order.npy   (items,) int64: all rows, most popular first, equal ones in row order
    category_rows.arrow    per category the ascending rows that have it
    items.arrow            the item table
    top_items.npz          per segment the rows of its most popular items, best first
    golden_queries.npz     inputs of the user tower with the answers that were right when the bundle was written
    held_out_users.jsonl   users with the item they chose next, to evaluate the bundle as served
    user_keys.npy          (users,) uint64, only where the user tower reads ids
    content_vectors.npy    (items, content_dim) float16, only where the blend has content; zero where nothing is known
    content_neighbours.npy (items, neighbours) int32: rows nearest by content, best first, -1 where there are no more
    item_item_rows.npy     (items, neighbours) int32, only where the blend has the item-item source: see `item_item`
    item_item_weights.npy  (items, neighbours) float16: what an item in a history adds to the score of that neighbour
    ranker.onnx            only where the bundle has an ONNX ranker
    MODEL_CARD.md          for people: what the model is, how it was measured, its limits; not in older bundles

The sorted keys, the order by popularity and the rows of categories follow from other files. They are files because
processes that serve the same bundle then share them; a bundle without them can be read, and each process makes its own.

Reading never imports FAISS or ONNX Runtime: the contract stays light, and whoever serves opens those two in its engine.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from tandem.contract.errors import BundleCorrupt, BundleIncompatible, StoreValueError
from tandem.contract.features import Tensors
from tandem.contract.item_item import ItemItem
from tandem.contract.items import ItemTable, read_category_rows
from tandem.contract.manifest import MANIFEST, Manifest
from tandem.contract.names import SEGMENT_ALL
from tandem.contract.store import UserState
from tandem.contract.vocabulary import MISSING_ROW, Keys, SortedKeys, Vocabulary, bucket_starts, id_keys

_USER_TOWER: Final = "user_tower.onnx"
_ITEM_TOWER: Final = "item_tower.onnx"
_INDEX: Final = "index.faiss"
_ITEM_VECTORS: Final = "item_vectors.npy"
_ITEM_KEYS: Final = "item_keys.npy"
_SORTED_ITEM_KEYS: Final = "sorted_item_keys.npy"
_SORTED_ITEM_ROWS: Final = "sorted_item_rows.npy"
_ITEM_KEY_BUCKETS: Final = "item_key_buckets.npy"
_POPULARITY_ORDER: Final = "popularity_order.npy"
_CATEGORY_ROWS: Final = "category_rows.arrow"
_ITEMS: Final = "items.arrow"
_TOP_ITEMS: Final = "top_items.npz"
_GOLDEN_QUERIES: Final = "golden_queries.npz"
_HELD_OUT_USERS: Final = "held_out_users.jsonl"
_USER_KEYS: Final = "user_keys.npy"
_CONTENT_VECTORS: Final = "content_vectors.npy"
_CONTENT_NEIGHBOURS: Final = "content_neighbours.npy"
_ITEM_ITEM_ROWS: Final = "item_item_rows.npy"
_ITEM_ITEM_WEIGHTS: Final = "item_item_weights.npy"
_RANKER: Final = "ranker.onnx"
MODEL_CARD: Final = "MODEL_CARD.md"
_REQUIRED: Final = frozenset(
    {
        _USER_TOWER,
        _ITEM_TOWER,
        _INDEX,
        _ITEM_VECTORS,
        _ITEM_KEYS,
        _ITEMS,
        _TOP_ITEMS,
        _GOLDEN_QUERIES,
        _HELD_OUT_USERS,
    }
)
_GOLDEN_INPUT: Final = "input/"


@dataclass(frozen=True)
class GoldenQueries:
    """Questions with known answers, asked of a bundle before it serves."""

    inputs: Tensors
    """Inputs of the user tower, (queries, ...) each."""
    expected_rows: npt.NDArray[np.int64]
    """(queries, k) int64: by exact search over the item vectors, best first."""


@dataclass(frozen=True)
class HeldOutUser:
    """A user as they were before they chose `target_item_id`."""

    user_id: str
    state: UserState
    target_item_id: str


@dataclass(frozen=True)
class Content:
    """What the catalogue's texts and categories say of items, independent of behaviour."""

    vectors: npt.NDArray[np.float16]
    """(items, content_dim) float16 of length 1, or zero where nothing is known of an item."""
    neighbours: npt.NDArray[np.int32]
    """(items, neighbours) int32: other rows with the highest inner product, best first; -1 where there are no more."""


@dataclass(frozen=True, kw_only=True)
class BundleParts:
    """What `write_bundle` puts together. Files are copied."""

    user_tower: Path
    item_tower: Path
    index: Path
    item_vectors: npt.NDArray[np.float32]
    items: ItemTable
    item_vocabulary: Vocabulary
    top_items: Mapping[str, npt.NDArray[np.int64]]
    golden_queries: GoldenQueries
    held_out_users: Sequence[HeldOutUser]
    user_vocabulary: Vocabulary | None = None
    content: Content | None = None
    """Given exactly where the manifest's blend has content."""
    item_item: ItemItem | None = None
    """Given exactly where the manifest's blend has the item-item source."""
    ranker: Path | None = None
    """Given exactly where the manifest has a ranker."""
    model_card: str = ""
    """Markdown; empty: the bundle gets none."""


@dataclass(frozen=True, kw_only=True)
class Bundle:
    """A bundle that was checked and opened. Arrays are read-only."""

    directory: Path
    manifest: Manifest
    user_tower: Path
    item_tower: Path
    index: Path
    item_vectors: npt.NDArray[np.float32]
    """(items, dim) float32, mapped into memory."""
    items: ItemTable
    item_vocabulary: Vocabulary
    user_vocabulary: Vocabulary | None
    rows_by_popularity: npt.NDArray[np.int64]
    """(items,) int64: all rows, most popular first, equal ones in row order. Mapped into memory."""
    rows_by_category: Mapping[str, npt.NDArray[np.int64]]
    """For every category, the ascending rows that have it: (n,) int64. Mapped into memory."""
    top_items: Mapping[str, npt.NDArray[np.int64]]
    """Per segment, rows best first. The segment `SEGMENT_ALL` is always there."""
    golden_queries: GoldenQueries
    held_out_users: tuple[HeldOutUser, ...]
    content: Content | None = None
    """Mapped into memory; there exactly where the manifest's blend has content."""
    item_item: ItemItem | None = None
    """Mapped into memory; there exactly where the manifest's blend has the item-item source."""
    ranker: Path | None = None
    """There exactly where the manifest has a ranker."""


def write_bundle(directory: Path, manifest: Manifest, parts: BundleParts) -> Bundle:
    """Writes a bundle and reads it back.

    The directory appears complete or not at all: it is written beside its place and then renamed. The manifest's hashes
    and list of files are filled in here.

    Raises FileExistsError when `directory` exists, BundleIncompatible or BundleCorrupt when the parts do not fit.
    """
    if directory.exists():
        raise FileExistsError(f"{directory} exists; a bundle is never overwritten")
    directory.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=f".{directory.name}-", dir=directory.parent))
    try:
        staging.chmod(0o755)
        _write_parts(staging, parts)
        complete = Manifest(
            **{
                **vars(manifest),
                "item_vocabulary_hash": parts.item_vocabulary.content_hash,
                "user_vocabulary_hash": parts.user_vocabulary.content_hash if parts.user_vocabulary else "",
                "feature_schema_fingerprint": manifest.feature_schema.fingerprint,
                "files": {
                    path.name: {"sha256": _sha256(path), "bytes": path.stat().st_size}
                    for path in sorted(staging.iterdir())
                },
            }
        )
        (staging / MANIFEST).write_text(complete.to_json())
        read_bundle(staging)
        staging.rename(directory)
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        raise
    return read_bundle(directory, verify_checksums=False)


def read_manifest(directory: Path) -> Manifest:
    """The manifest alone, unchecked against the files. Raises BundleCorrupt, BundleIncompatible."""
    path = directory / MANIFEST
    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise BundleCorrupt(f"{MANIFEST} is unreadable: {error}") from error
    return Manifest.from_json(text)


def read_bundle(directory: Path, *, verify_checksums: bool = True) -> Bundle:
    """Opens a bundle after checking that it is whole and consistent.

    `verify_checksums=False` skips what has to look at every byte (hashes of files, values of vectors, ids, orders), for
    a directory that this machine has verified before.

    Raises BundleCorrupt (missing or truncated file, wrong checksum, unreadable part, vectors that are not finite) and
    BundleIncompatible (format version, dimension, vocabulary or schema that does not fit).
    """
    manifest = read_manifest(directory)
    _check_files(directory, manifest, verify_checksums=verify_checksums)
    item_vectors = _load_array(directory / _ITEM_VECTORS)
    items = ItemTable.read(directory / _ITEMS)
    item_vocabulary = _load_item_vocabulary(directory, manifest)
    user_vocabulary = None
    if manifest.feature_schema.user_ids:
        user_vocabulary = _load_vocabulary(directory / _USER_KEYS)
    bundle = Bundle(
        directory=directory,
        manifest=manifest,
        user_tower=directory / _USER_TOWER,
        item_tower=directory / _ITEM_TOWER,
        index=directory / _INDEX,
        item_vectors=item_vectors,
        items=items,
        item_vocabulary=item_vocabulary,
        user_vocabulary=user_vocabulary,
        rows_by_popularity=_load_popularity_order(directory, manifest, items),
        rows_by_category=(
            read_category_rows(directory / _CATEGORY_ROWS)
            if _CATEGORY_ROWS in manifest.files
            else items.rows_by_category()
        ),
        top_items=_load_npz(directory / _TOP_ITEMS),
        golden_queries=_read_golden_queries(directory / _GOLDEN_QUERIES),
        held_out_users=read_held_out_users(directory / _HELD_OUT_USERS),
        content=_read_content(directory) if manifest.blend and manifest.blend.content else None,
        item_item=_read_item_item(directory) if manifest.blend and manifest.blend.item_item else None,
        ranker=directory / _RANKER if manifest.ranker else None,
    )
    _check_consistency(bundle)
    if bundle.content is not None:
        _check_content(bundle.content, num_items=len(items))
    if bundle.item_item is not None:
        _check_item_item(bundle.item_item, num_items=len(items))
    if verify_checksums:
        _check_values(bundle)
    return bundle


def write_held_out_users(path: Path, users: Sequence[HeldOutUser]) -> None:
    """Writes users as a bundle holds them: a line of JSON each, the state as in the online store, in base64."""
    with path.open("w") as sink:
        for user in users:
            state = base64.b64encode(user.state.to_bytes()).decode()
            line = {"user_id": user.user_id, "state": state, "target_item_id": user.target_item_id}
            sink.write(json.dumps(line) + "\n")


def read_held_out_users(path: Path) -> tuple[HeldOutUser, ...]:
    """Reads what `write_held_out_users` wrote. Raises BundleCorrupt, which names the line."""
    users = []
    for number, line in enumerate(path.read_bytes().splitlines(), start=1):
        try:
            raw = json.loads(line)
            state = UserState.from_bytes(base64.b64decode(raw["state"]))
            users.append(HeldOutUser(raw["user_id"], state, raw["target_item_id"]))
        except (ValueError, KeyError, TypeError, StoreValueError) as error:
            raise BundleCorrupt(f"{path.name} line {number} is unreadable: {error}") from error
    return tuple(users)


def _write_parts(staging: Path, parts: BundleParts) -> None:
    shutil.copyfile(parts.user_tower, staging / _USER_TOWER)
    shutil.copyfile(parts.item_tower, staging / _ITEM_TOWER)
    shutil.copyfile(parts.index, staging / _INDEX)
    np.save(staging / _ITEM_VECTORS, np.ascontiguousarray(parts.item_vectors, dtype=np.float32))
    np.save(staging / _ITEM_KEYS, np.asarray(parts.item_vocabulary.keys, dtype=np.uint64))
    np.save(staging / _SORTED_ITEM_KEYS, parts.item_vocabulary.lookup.keys)
    np.save(staging / _SORTED_ITEM_ROWS, parts.item_vocabulary.lookup.rows)
    np.save(staging / _ITEM_KEY_BUCKETS, parts.item_vocabulary.lookup.bucket_starts)
    np.save(staging / _POPULARITY_ORDER, _popularity_order(parts.items))
    parts.items.write_category_rows(staging / _CATEGORY_ROWS)
    parts.items.write(staging / _ITEMS)
    np.savez(staging / _TOP_ITEMS, allow_pickle=False, **dict(parts.top_items))
    golden = {f"{_GOLDEN_INPUT}{name}": array for name, array in parts.golden_queries.inputs.items()}
    np.savez(staging / _GOLDEN_QUERIES, allow_pickle=False, expected_rows=parts.golden_queries.expected_rows, **golden)
    write_held_out_users(staging / _HELD_OUT_USERS, parts.held_out_users)
    if parts.user_vocabulary is not None:
        np.save(staging / _USER_KEYS, np.asarray(parts.user_vocabulary.keys, dtype=np.uint64))
    if parts.content is not None:
        np.save(staging / _CONTENT_VECTORS, np.ascontiguousarray(parts.content.vectors, dtype=np.float16))
        np.save(staging / _CONTENT_NEIGHBOURS, np.ascontiguousarray(parts.content.neighbours, dtype=np.int32))
    if parts.item_item is not None:
        np.save(staging / _ITEM_ITEM_ROWS, np.ascontiguousarray(parts.item_item.rows, dtype=np.int32))
        np.save(staging / _ITEM_ITEM_WEIGHTS, np.ascontiguousarray(parts.item_item.weights, dtype=np.float16))
    if parts.ranker is not None:
        shutil.copyfile(parts.ranker, staging / _RANKER)
    if parts.model_card:
        (staging / MODEL_CARD).write_text(parts.model_card)


def _check_files(directory: Path, manifest: Manifest, *, verify_checksums: bool) -> None:
    required = set(_REQUIRED)
    if manifest.feature_schema.user_ids:
        required.add(_USER_KEYS)
    if manifest.blend is not None and manifest.blend.content is not None:
        required |= {_CONTENT_VECTORS, _CONTENT_NEIGHBOURS}
    if manifest.blend is not None and manifest.blend.item_item is not None:
        required |= {_ITEM_ITEM_ROWS, _ITEM_ITEM_WEIGHTS}
    if manifest.ranker is not None:
        required.add(_RANKER)
    if unlisted := sorted(required - manifest.files.keys()):
        raise BundleIncompatible(f"{MANIFEST}: files does not list {', '.join(unlisted)}")
    for name, expected in manifest.files.items():
        path = directory / name
        if os.path.basename(name) != name:
            raise BundleIncompatible(f"{MANIFEST}: {name!r} is not a file name")
        if not path.is_file():
            raise BundleCorrupt(f"{name} is missing")
        if (size := path.stat().st_size) != expected["bytes"]:
            raise BundleCorrupt(f"{name} has {size} bytes, the manifest says {expected['bytes']}")
        if verify_checksums and (actual := _sha256(path)) != expected["sha256"]:
            raise BundleCorrupt(f"{name} has SHA-256 {actual}, the manifest says {expected['sha256']}")


def _check_consistency(bundle: Bundle) -> None:
    manifest = bundle.manifest
    num_items = len(bundle.items)
    if bundle.item_vectors.dtype != np.float32 or bundle.item_vectors.shape != (num_items, manifest.embedding_dim):
        raise BundleIncompatible(
            f"{_ITEM_VECTORS} is {bundle.item_vectors.dtype} {bundle.item_vectors.shape}, "
            f"{num_items} items of embedding_dim {manifest.embedding_dim} need float32 of that shape"
        )
    if num_items == 0:
        raise BundleIncompatible(f"{_ITEMS} holds no item")
    if len(bundle.item_vocabulary) != num_items:
        raise BundleIncompatible(f"{_ITEM_KEYS} holds {len(bundle.item_vocabulary)} keys for {num_items} items")
    if bundle.item_vocabulary.content_hash != manifest.item_vocabulary_hash:
        raise BundleIncompatible(f"{_ITEM_KEYS} is not the vocabulary that item_vocabulary_hash names")
    if bundle.user_vocabulary and bundle.user_vocabulary.content_hash != manifest.user_vocabulary_hash:
        raise BundleIncompatible(f"{_USER_KEYS} is not the vocabulary that user_vocabulary_hash names")
    if manifest.feature_schema.fingerprint != manifest.feature_schema_fingerprint:
        raise BundleIncompatible(f"{MANIFEST}: feature_schema is not the one that feature_schema_fingerprint names")
    dims = {spec.shape[-1] for tower in (manifest.user_tower, manifest.item_tower) for spec in tower.outputs}
    if dims != {manifest.embedding_dim}:
        raise BundleIncompatible(
            f"{MANIFEST}: towers put out vectors of {dims}, embedding_dim is {manifest.embedding_dim}"
        )
    if SEGMENT_ALL not in bundle.top_items:
        raise BundleIncompatible(f"{_TOP_ITEMS} lacks the segment {SEGMENT_ALL!r}")
    answers = bundle.golden_queries.expected_rows
    for segment, rows, ndim in [
        *((name, top, 1) for name, top in bundle.top_items.items()),
        ("golden queries", answers, 2),
    ]:
        if rows.dtype != np.int64 or rows.ndim != ndim:
            raise BundleIncompatible(f"{segment}: {rows.dtype} in {rows.ndim} dimensions, not int64 in {ndim}")
        if rows.size and (rows.min() < 0 or rows.max() >= num_items):
            raise BundleIncompatible(f"{segment}: rows outside 0..{num_items - 1}")


def _check_content(content: Content, *, num_items: int) -> None:
    vectors, neighbours = content.vectors, content.neighbours
    if vectors.dtype != np.float16 or vectors.ndim != 2 or len(vectors) != num_items or vectors.shape[1] == 0:
        raise BundleIncompatible(
            f"{_CONTENT_VECTORS} is {vectors.dtype} {vectors.shape}, {num_items} items need float16 in 2 dimensions"
        )
    if not np.isfinite(vectors).all():
        raise BundleCorrupt(f"{_CONTENT_VECTORS} holds values that are NaN or infinite")
    _check_neighbours(_CONTENT_NEIGHBOURS, neighbours, num_items=num_items)


def _check_item_item(item_item: ItemItem, *, num_items: int) -> None:
    _check_neighbours(_ITEM_ITEM_ROWS, item_item.rows, num_items=num_items)
    weights = item_item.weights
    if weights.dtype != np.float16 or weights.shape != item_item.rows.shape:
        raise BundleIncompatible(
            f"{_ITEM_ITEM_WEIGHTS} is {weights.dtype} {weights.shape}, {_ITEM_ITEM_ROWS} needs float16 of its shape "
            f"{item_item.rows.shape}"
        )
    if not np.isfinite(weights).all():
        raise BundleCorrupt(f"{_ITEM_ITEM_WEIGHTS} holds values that are NaN or infinite")
    if weights[item_item.rows == MISSING_ROW].any():
        raise BundleIncompatible(f"{_ITEM_ITEM_WEIGHTS} weighs a neighbour that is missing")


def _check_neighbours(name: str, neighbours: npt.NDArray[np.int32], *, num_items: int) -> None:
    if neighbours.dtype != np.int32 or neighbours.ndim != 2 or len(neighbours) != num_items:
        raise BundleIncompatible(
            f"{name} is {neighbours.dtype} {neighbours.shape}, {num_items} items need int32 in 2 dimensions"
        )
    if neighbours.size and (neighbours.min() < MISSING_ROW or neighbours.max() >= num_items):
        raise BundleIncompatible(f"{name}: rows outside -1..{num_items - 1}")


def _check_values(bundle: Bundle) -> None:
    """What only a look at every value can tell.

    Row i must be the same item in the table and in the vocabulary, or every answer would name another item.
    """
    num_items = len(bundle.items)
    if not np.isfinite(bundle.item_vectors).all():
        raise BundleCorrupt(f"{_ITEM_VECTORS} holds values that are NaN or infinite")
    vocabulary = bundle.item_vocabulary
    lookup = vocabulary.lookup
    for name, rows in ((_SORTED_ITEM_ROWS, lookup.rows), (_POPULARITY_ORDER, bundle.rows_by_popularity)):
        if not np.array_equal(np.bincount(np.clip(rows, 0, num_items - 1), minlength=num_items), np.ones(num_items)):
            raise BundleIncompatible(f"{name} does not hold every row once")
    if not np.array_equal(vocabulary.keys[lookup.rows], lookup.keys) or not bool(
        (lookup.keys[1:] > lookup.keys[:-1]).all()
    ):
        raise BundleIncompatible(f"{_SORTED_ITEM_KEYS} is not {_ITEM_KEYS} in ascending order")
    if not np.array_equal(bucket_starts(lookup.keys), lookup.bucket_starts):
        raise BundleIncompatible(f"{_ITEM_KEY_BUCKETS} is not where the buckets of {_SORTED_ITEM_KEYS} begin")
    if bool((np.diff(bundle.items.popularity[bundle.rows_by_popularity]) > 0).any()):
        raise BundleIncompatible(f"{_POPULARITY_ORDER} does not begin with the most popular items")
    categories = bundle.items.rows_by_category()
    if categories.keys() != bundle.rows_by_category.keys() or not all(
        np.array_equal(rows, bundle.rows_by_category[name]) for name, rows in categories.items()
    ):
        raise BundleIncompatible(f"{_CATEGORY_ROWS} is not what {_ITEMS} says")
    if not np.array_equal(id_keys(bundle.items.item_ids(range(num_items))), bundle.item_vocabulary.keys):
        raise BundleIncompatible(f"{_ITEMS} does not hold the items of {_ITEM_KEYS} in their order")


def _read_golden_queries(path: Path) -> GoldenQueries:
    arrays = _load_npz(path)
    if "expected_rows" not in arrays:
        raise BundleCorrupt(f"{path.name} lacks expected_rows")
    inputs: Tensors = {
        name.removeprefix(_GOLDEN_INPUT): array for name, array in arrays.items() if name.startswith(_GOLDEN_INPUT)
    }
    return GoldenQueries(inputs, arrays["expected_rows"])


def _read_content(directory: Path) -> Content:
    return Content(_load_array(directory / _CONTENT_VECTORS), _load_array(directory / _CONTENT_NEIGHBOURS))


def _read_item_item(directory: Path) -> ItemItem:
    return ItemItem(_load_array(directory / _ITEM_ITEM_ROWS), _load_array(directory / _ITEM_ITEM_WEIGHTS))


def _load_vocabulary(path: Path) -> Vocabulary:
    keys = _load_array(path)
    if keys.dtype != np.uint64 or keys.ndim != 1:
        raise BundleIncompatible(f"{path.name} is {keys.dtype} in {keys.ndim} dimensions, not uint64 in 1")
    return Vocabulary(keys)


def _load_item_vocabulary(directory: Path, manifest: Manifest) -> Vocabulary:
    if not {_SORTED_ITEM_KEYS, _SORTED_ITEM_ROWS} <= manifest.files.keys():
        return _load_vocabulary(directory / _ITEM_KEYS)
    arrays: list[npt.NDArray[Any]] = []
    for name, dtype in ((_ITEM_KEYS, np.uint64), (_SORTED_ITEM_KEYS, np.uint64), (_SORTED_ITEM_ROWS, np.int64)):
        array = _load_array(directory / name)
        if array.dtype != dtype or array.ndim != 1 or (arrays and len(array) != len(arrays[0])):
            raise BundleIncompatible(f"{name} is {array.dtype} {array.shape}, not {np.dtype(dtype)} for every item")
        arrays.append(array)
    # Of numpy's class for mapped files every lookup would be slower.
    keys, ordered, rows = map(np.asarray, arrays)
    return Vocabulary(keys, SortedKeys(ordered, rows, _load_bucket_starts(directory, manifest, ordered)))


def _load_bucket_starts(directory: Path, manifest: Manifest, ordered: Keys) -> npt.NDArray[np.int32]:
    if _ITEM_KEY_BUCKETS not in manifest.files:
        return bucket_starts(ordered)
    starts = _load_array(directory / _ITEM_KEY_BUCKETS)
    if starts.dtype != np.int32 or starts.ndim != 1 or (len(starts) - 1).bit_count() != 1:
        raise BundleIncompatible(
            f"{_ITEM_KEY_BUCKETS} is {starts.dtype} {starts.shape}, not int32 for 2^n buckets and one"
        )
    return np.asarray(starts)


def _load_popularity_order(directory: Path, manifest: Manifest, items: ItemTable) -> npt.NDArray[np.int64]:
    if _POPULARITY_ORDER not in manifest.files:
        return _popularity_order(items)
    order = _load_array(directory / _POPULARITY_ORDER)
    if order.dtype != np.int64 or order.shape != (len(items),):
        raise BundleIncompatible(f"{_POPULARITY_ORDER} is {order.dtype} {order.shape}, not int64 for every item")
    return order


def _popularity_order(items: ItemTable) -> npt.NDArray[np.int64]:
    return np.argsort(-items.popularity, kind="stable")


# numpy types what it loads as Any: the checks above are what says which arrays these are.
def _load_array(path: Path) -> npt.NDArray:  # type: ignore[type-arg]
    try:
        array: npt.NDArray = np.load(path, mmap_mode="r", allow_pickle=False)  # type: ignore[type-arg]
    except (ValueError, OSError, EOFError) as error:
        raise BundleCorrupt(f"{path.name} is unreadable: {error}") from error
    # Still mapped, but not numpy's memmap class, which makes every slice slower.
    return np.asarray(array)


def _load_npz(path: Path) -> dict[str, npt.NDArray]:  # type: ignore[type-arg]
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return dict(arrays)
    except Exception as error:  # zipfile and numpy raise a dozen kinds for damaged archives; each means the same here
        raise BundleCorrupt(f"{path.name} is unreadable: {error}") from error


def _sha256(path: Path) -> str:
    with path.open("rb") as source:
        return hashlib.file_digest(source, "sha256").hexdigest()
