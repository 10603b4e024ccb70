"""The bundle: one directory that holds everything one model version needs to be served.

`write_bundle` writes it, `read_bundle` checks and opens it. Its files are the table in `bundle_files`, beside
`manifest.json`: what the bundle is, what it was made from, and size and SHA-256 of every other file.

Reading imports neither FAISS nor ONNX Runtime: the contract stays light, and each engine opens its own files.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tandem.contract.bundle_contents import BundleContents, BundleParts, Content
from tandem.contract.bundle_files import (
    BUNDLE_FILES,
    CATEGORY_ROWS,
    CONTENT_NEIGHBOURS,
    CONTENT_VECTORS,
    EVENT_COUNTS,
    GOLDEN_QUERIES,
    HELD_OUT_USERS,
    INDEX,
    ITEM_ITEM_ROWS,
    ITEM_ITEM_WEIGHTS,
    ITEM_KEY_BUCKETS,
    ITEM_KEYS,
    ITEM_TABLE,
    ITEM_TOWER,
    ITEM_VECTORS,
    POPULARITY_ORDER,
    RANKER,
    SEQUENTIAL_ROWS,
    SEQUENTIAL_WEIGHTS,
    SORTED_ITEM_KEYS,
    SORTED_ITEM_ROWS,
    TOP_ITEMS,
    USER_KEYS,
    USER_TOWER,
    BundleFile,
    OpenedFiles,
)
from tandem.contract.checksums import file_sha256
from tandem.contract.errors import BundleCorrupt, BundleIncompatible, unreadable_bundles
from tandem.contract.item_item import ItemItem
from tandem.contract.manifest import MANIFEST, Manifest
from tandem.contract.names import EVENT_TYPES, SEGMENT_ALL
from tandem.contract.vocabulary import MISSING_ROW, SortedKeys, Vocabulary, bucket_starts, id_keys


@dataclass(frozen=True, kw_only=True)
class Bundle(BundleContents):
    """A bundle that was checked and opened. Arrays are read-only; those of .npy and .arrow files are memory-mapped."""

    directory: Path
    manifest: Manifest
    rows_by_popularity: npt.NDArray[np.int64]
    """(items,) int64: all rows, most popular first, equally popular ones in row order."""
    rows_by_category: Mapping[str, npt.NDArray[np.int64]]
    """For every category, the ascending rows that have it: (n,) int64."""


def write_bundle(directory: Path, manifest: Manifest, parts: BundleParts) -> Bundle:
    """Writes a bundle and reads it back.

    The directory appears complete or not at all: the files are written to a hidden directory beside it, which is then
    renamed. The manifest's hashes and list of files are filled in here.

    Raises FileExistsError when `directory` exists, BundleIncompatible or BundleCorrupt when the parts do not fit.
    """
    if directory.exists():
        raise FileExistsError(f"{directory} exists; a bundle is never overwritten")
    directory.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=f".{directory.name}-", dir=directory.parent))
    try:
        for file in BUNDLE_FILES:
            file.write(staging, parts)
        complete = replace(
            manifest,
            item_vocabulary_hash=parts.item_vocabulary.content_hash,
            user_vocabulary_hash=parts.user_vocabulary.content_hash if parts.user_vocabulary else "",
            feature_schema_fingerprint=manifest.feature_schema.fingerprint,
            files={
                path.name: {"sha256": file_sha256(path), "bytes": path.stat().st_size}
                for path in sorted(staging.iterdir())
            },
        )
        (staging / MANIFEST).write_text(complete.to_json())
        read_bundle(staging)
        staging.rename(directory)
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        raise
    return read_bundle(directory, verify_checksums=False)


def read_manifest(directory: Path) -> Manifest:
    """Reads the manifest alone, without checking the files against it. Raises BundleCorrupt, BundleIncompatible."""
    path = directory / MANIFEST
    with unreadable_bundles(f"{MANIFEST} is unreadable"):
        return Manifest.from_json(path.read_text())


def read_bundle(directory: Path, *, verify_checksums: bool = True) -> Bundle:
    """Opens a bundle after checking that it is whole and consistent.

    `verify_checksums=False` skips the checks that read every byte (hashes, vectors, ids, orders), for a directory that
    this machine has verified before.

    Raises BundleCorrupt (missing or truncated file, wrong checksum, unreadable part, vectors that are not finite) and
    BundleIncompatible (format version, dimension, vocabulary or schema that does not fit).
    """
    manifest = read_manifest(directory)
    with unreadable_bundles("the bundle cannot be read"):
        return _opened(directory, manifest, verify_checksums=verify_checksums)


def _opened(directory: Path, manifest: Manifest, *, verify_checksums: bool) -> Bundle:
    _check_files(directory, manifest, verify_checksums=verify_checksums)
    files = OpenedFiles(directory, manifest)
    files.check_arrays(dim=manifest.embedding_dim)
    bundle = _assemble(directory, manifest, files)
    _check_consistency(bundle)
    if bundle.content is not None:
        _check_content(bundle.content, num_items=len(bundle.items))
    for source, rows_file, weights_file in (
        (bundle.item_item, ITEM_ITEM_ROWS, ITEM_ITEM_WEIGHTS),
        (bundle.sequential, SEQUENTIAL_ROWS, SEQUENTIAL_WEIGHTS),
    ):
        if source is not None:
            _check_neighbours(rows_file, source.rows, num_items=len(bundle.items))
            _check_weights(weights_file, source)
    if verify_checksums:
        _check_values(bundle)
    return bundle


def _assemble(directory: Path, manifest: Manifest, files: OpenedFiles) -> Bundle:
    """The bundle of its opened files. Derived values that an older bundle has no files for are computed."""
    items = files[ITEM_TABLE]
    return Bundle(
        directory=directory,
        manifest=manifest,
        user_tower=files[USER_TOWER],
        item_tower=files[ITEM_TOWER],
        index=files[INDEX],
        item_vectors=files[ITEM_VECTORS],
        items=items,
        item_vocabulary=Vocabulary(files[ITEM_KEYS], _sorted_keys(files)),
        user_vocabulary=Vocabulary(files[USER_KEYS]) if USER_KEYS in files else None,
        rows_by_popularity=files[POPULARITY_ORDER] if POPULARITY_ORDER in files else items.rows_by_popularity(),
        rows_by_category=files[CATEGORY_ROWS] if CATEGORY_ROWS in files else items.rows_by_category(),
        top_items=files[TOP_ITEMS],
        golden_queries=files[GOLDEN_QUERIES],
        held_out_users=files[HELD_OUT_USERS],
        content=Content(files[CONTENT_VECTORS], files[CONTENT_NEIGHBOURS]) if CONTENT_VECTORS in files else None,
        item_item=ItemItem(files[ITEM_ITEM_ROWS], files[ITEM_ITEM_WEIGHTS]) if ITEM_ITEM_ROWS in files else None,
        sequential=ItemItem(files[SEQUENTIAL_ROWS], files[SEQUENTIAL_WEIGHTS]) if SEQUENTIAL_ROWS in files else None,
        event_counts=files.get(EVENT_COUNTS),
        ranker=files.get(RANKER),
    )


def _sorted_keys(files: OpenedFiles) -> SortedKeys | None:
    if SORTED_ITEM_KEYS not in files or SORTED_ITEM_ROWS not in files:
        return None
    keys = files[SORTED_ITEM_KEYS]
    starts = files[ITEM_KEY_BUCKETS] if ITEM_KEY_BUCKETS in files else bucket_starts(keys)
    return SortedKeys(keys, files[SORTED_ITEM_ROWS], starts)


def _check_files(directory: Path, manifest: Manifest, *, verify_checksums: bool) -> None:
    """Checks the directory against the manifest's list of files, and the list against the table."""
    required = {file.name for file in BUNDLE_FILES if file.is_required(manifest)}
    if unlisted := sorted(required - manifest.files.keys()):
        raise BundleIncompatible(f"{MANIFEST}: files does not list {', '.join(unlisted)}")
    for name, expected in manifest.files.items():
        path = directory / name
        if not path.is_file():
            raise BundleCorrupt(f"{name} is missing")
        if (size := path.stat().st_size) != expected["bytes"]:
            raise BundleCorrupt(f"{name} has {size} bytes, the manifest says {expected['bytes']}")
        if verify_checksums and (actual := file_sha256(path)) != expected["sha256"]:
            raise BundleCorrupt(f"{name} has SHA-256 {actual}, the manifest says {expected['sha256']}")


def _check_consistency(bundle: Bundle) -> None:
    manifest = bundle.manifest
    num_items = len(bundle.items)
    if num_items == 0:
        raise BundleIncompatible(f"{ITEM_TABLE.name} holds no item")
    if len(bundle.item_vocabulary) != num_items:
        raise BundleIncompatible(f"{ITEM_KEYS.name} holds {len(bundle.item_vocabulary)} keys for {num_items} items")
    if bundle.item_vocabulary.content_hash != manifest.item_vocabulary_hash:
        raise BundleIncompatible(f"{ITEM_KEYS.name} is not the vocabulary that item_vocabulary_hash names")
    if bundle.user_vocabulary and bundle.user_vocabulary.content_hash != manifest.user_vocabulary_hash:
        raise BundleIncompatible(f"{USER_KEYS.name} is not the vocabulary that user_vocabulary_hash names")
    if manifest.feature_schema.fingerprint != manifest.feature_schema_fingerprint:
        raise BundleIncompatible(f"{MANIFEST}: feature_schema is not the one that feature_schema_fingerprint names")
    dims = {spec.shape[-1] for tower in (manifest.user_tower, manifest.item_tower) for spec in tower.outputs}
    if dims != {manifest.embedding_dim}:
        raise BundleIncompatible(
            f"{MANIFEST}: towers put out vectors of {dims}, embedding_dim is {manifest.embedding_dim}"
        )
    if SEGMENT_ALL not in bundle.top_items:
        raise BundleIncompatible(f"{TOP_ITEMS.name} lacks the segment {SEGMENT_ALL!r}")
    if bundle.event_counts is not None and bundle.event_counts.shape[1] != len(EVENT_TYPES):
        raise BundleIncompatible(f"{EVENT_COUNTS.name} does not have the {len(EVENT_TYPES)} types of events")
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
    _check_finite(CONTENT_VECTORS, content.vectors)
    _check_neighbours(CONTENT_NEIGHBOURS, content.neighbours, num_items=num_items)


def _check_weights(file: BundleFile[npt.NDArray[np.float16]], source: ItemItem) -> None:
    _check_finite(file, source.weights)
    if source.weights[source.rows == MISSING_ROW].any():
        raise BundleIncompatible(f"{file.name} weighs a neighbour that is missing")


def _check_neighbours(
    file: BundleFile[npt.NDArray[np.int32]], neighbours: npt.NDArray[np.int32], *, num_items: int
) -> None:
    if neighbours.size and (neighbours.min() < MISSING_ROW or neighbours.max() >= num_items):
        raise BundleIncompatible(f"{file.name}: rows outside -1..{num_items - 1}")


def _check_finite(file: BundleFile[Any], array: npt.NDArray[Any]) -> None:
    if not np.isfinite(array).all():
        raise BundleCorrupt(f"{file.name} holds values that are NaN or infinite")


def _check_values(bundle: Bundle) -> None:
    """Checks that read every value.

    Row i must be the same item in the table and in the vocabulary, or every answer would name the wrong items.
    """
    num_items = len(bundle.items)
    _check_finite(ITEM_VECTORS, bundle.item_vectors)
    vocabulary = bundle.item_vocabulary
    lookup = vocabulary.lookup
    for file, rows in ((SORTED_ITEM_ROWS, lookup.rows), (POPULARITY_ORDER, bundle.rows_by_popularity)):
        if not np.array_equal(np.bincount(np.clip(rows, 0, num_items - 1), minlength=num_items), np.ones(num_items)):
            raise BundleIncompatible(f"{file.name} does not hold every row once")
    if not np.array_equal(vocabulary.keys[lookup.rows], lookup.keys) or not bool(
        (lookup.keys[1:] > lookup.keys[:-1]).all()
    ):
        raise BundleIncompatible(f"{SORTED_ITEM_KEYS.name} is not {ITEM_KEYS.name} in ascending order")
    if not np.array_equal(bucket_starts(lookup.keys), lookup.bucket_starts):
        raise BundleIncompatible(f"{ITEM_KEY_BUCKETS.name} is not where the buckets of {SORTED_ITEM_KEYS.name} begin")
    if bool((np.diff(bundle.items.popularity[bundle.rows_by_popularity]) > 0).any()):
        raise BundleIncompatible(f"{POPULARITY_ORDER.name} does not begin with the most popular items")
    categories = bundle.items.rows_by_category()
    if categories.keys() != bundle.rows_by_category.keys() or not all(
        np.array_equal(rows, bundle.rows_by_category[name]) for name, rows in categories.items()
    ):
        raise BundleIncompatible(f"{CATEGORY_ROWS.name} is not what {ITEM_TABLE.name} says")
    if not np.array_equal(id_keys(bundle.items.item_ids(range(num_items))), bundle.item_vocabulary.keys):
        raise BundleIncompatible(f"{ITEM_TABLE.name} does not hold the items of {ITEM_KEYS.name} in their order")
