"""The bundle: one directory that holds everything one model version needs to be served.

`write_bundle` writes it, `read_bundle` checks and opens it, and nothing else knows its layout:

    manifest.json          what it is, what it was made from, and size and SHA-256 of every other file
    user_tower.onnx        state -> user vector; its tensors are named in `names`
    item_tower.onnx        item features -> item vector
    index.faiss            FAISS IVF index over the item vectors; FAISS id i is row i
    item_vectors.npy       (items, dim) float32, mapped into memory
    item_keys.npy          (items,) uint64: the item vocabulary
    items.arrow            the item table
    top_items.npz          per segment the rows of its most popular items, best first
    golden_queries.npz     inputs of the user tower with the answers that were right when the bundle was written
    held_out_users.jsonl   users with the item they chose next, to evaluate the bundle as served
    user_keys.npy          (users,) uint64, only where the user tower reads ids

Reading never imports FAISS or ONNX Runtime: the contract stays light, and whoever serves opens those two in its engine.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Final, Literal, get_args

import numpy as np
import numpy.typing as npt

from tandem.contract.errors import BundleCorrupt, BundleIncompatible, StoreValueError
from tandem.contract.features import FeatureSchema, Tensors
from tandem.contract.items import ItemTable
from tandem.contract.names import SEGMENT_ALL
from tandem.contract.store import UserState
from tandem.contract.vocabulary import Vocabulary, id_keys

FORMAT_VERSION: Final = 1

_MANIFEST: Final = "manifest.json"
_USER_TOWER: Final = "user_tower.onnx"
_ITEM_TOWER: Final = "item_tower.onnx"
_INDEX: Final = "index.faiss"
_ITEM_VECTORS: Final = "item_vectors.npy"
_ITEM_KEYS: Final = "item_keys.npy"
_ITEMS: Final = "items.arrow"
_TOP_ITEMS: Final = "top_items.npz"
_GOLDEN_QUERIES: Final = "golden_queries.npz"
_HELD_OUT_USERS: Final = "held_out_users.jsonl"
_USER_KEYS: Final = "user_keys.npy"
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

# A part of store keys, where "/" separates, and a folder's name in caches.
_MODEL_VERSION: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")

Similarity = Literal["cosine", "dot"]


@dataclass(frozen=True)
class TensorSpec:
    """One input or output of a tower. A dimension that varies is named, for example ("batch", 50, 64)."""

    name: str
    dtype: str
    shape: tuple[str | int, ...]


@dataclass(frozen=True)
class TowerSpec:
    """Inputs and outputs of a tower, in their order."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]


@dataclass(frozen=True)
class TrainingData:
    """What a model was trained on."""

    name: str
    fingerprint: str
    """SHA-256 over the prepared interactions and items."""
    num_users: int
    num_items: int
    num_interactions: int


@dataclass(frozen=True)
class IndexSpec:
    """How the index was built, and what was measured of it."""

    kind: str
    """FAISS factory string, for example "IVF32,Flat"."""
    nprobe: int
    """Lists to search, at which `recall_at_100` was measured."""
    recall_at_100: float
    """Share of the exact 100 nearest items that the index returned, mean over held-out users' vectors."""


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What a bundle says of itself."""

    model_version: str
    """Unique name of this bundle, part of the key of every vector made with it: letters, digits, ".", "_", "-"."""
    created_at: str
    """ISO 8601, UTC."""
    training_data: TrainingData
    feature_schema: FeatureSchema
    user_tower: TowerSpec
    item_tower: TowerSpec
    embedding_dim: int
    similarity: Similarity
    """How scores are made of vectors. Vectors of "cosine" are stored with length 1, so that both are a dot product."""
    index: IndexSpec
    metrics: Mapping[str, float]
    """Offline metrics by name, for example "test/ndcg@10"."""
    onnx_max_abs_difference: float
    """Largest difference between a tower in ONNX Runtime and in PyTorch, at export."""
    item_vocabulary_hash: str = ""
    user_vocabulary_hash: str = ""
    feature_schema_fingerprint: str = ""
    format_version: int = FORMAT_VERSION
    files: Mapping[str, Mapping[str, str | int]] = field(default_factory=dict)
    """Per file its "sha256" and "bytes"."""

    def to_json(self) -> str:
        """The manifest as it is stored."""
        return json.dumps(asdict(self), indent=2, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Manifest:
        """Raises BundleCorrupt when the text is not JSON, BundleIncompatible on another format or a wrong field."""
        try:
            raw = json.loads(text)
        except ValueError as error:
            raise BundleCorrupt(f"{_MANIFEST} is not JSON: {error}") from error
        if not isinstance(raw, dict) or raw.get("format_version") != FORMAT_VERSION:
            found = raw.get("format_version") if isinstance(raw, dict) else None
            raise BundleIncompatible(f"{_MANIFEST}: format_version is {found}, this code reads {FORMAT_VERSION}")
        try:
            manifest = cls(
                **{
                    **raw,
                    "training_data": TrainingData(**raw["training_data"]),
                    "feature_schema": FeatureSchema.from_dict(raw["feature_schema"]),
                    "user_tower": _tower_spec(raw["user_tower"]),
                    "item_tower": _tower_spec(raw["item_tower"]),
                    "index": IndexSpec(**raw["index"]),
                }
            )
        except (KeyError, TypeError, ValueError) as error:
            raise BundleIncompatible(f"{_MANIFEST}: wrong or missing field: {error}") from error
        manifest._check_fields()
        return manifest

    def _check_fields(self) -> None:
        if not _MODEL_VERSION.fullmatch(str(self.model_version)):
            raise BundleIncompatible(f"{_MANIFEST}: model_version {self.model_version!r} is not a plain name")
        if self.similarity not in get_args(Similarity):
            raise BundleIncompatible(f"{_MANIFEST}: similarity {self.similarity!r} is unknown")
        if not isinstance(self.files, dict) or not isinstance(self.metrics, dict):
            raise BundleIncompatible(f"{_MANIFEST}: files and metrics must be objects")
        for name, entry in self.files.items():
            if not isinstance(entry, dict) or not {"sha256", "bytes"} <= entry.keys():
                raise BundleIncompatible(f"{_MANIFEST}: {name} lacks its sha256 or bytes")
        for tower in (self.user_tower, self.item_tower):
            if not tower.outputs or not all(spec.shape for spec in tower.outputs):
                raise BundleIncompatible(f"{_MANIFEST}: a tower has no output, or one without a shape")


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


@dataclass(frozen=True, kw_only=True)
class BundleParts:
    """What `write_bundle` puts together. The three files are copied."""

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
    top_items: Mapping[str, npt.NDArray[np.int64]]
    """Per segment, rows best first. The segment `SEGMENT_ALL` is always there."""
    golden_queries: GoldenQueries
    held_out_users: tuple[HeldOutUser, ...]


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
        (staging / _MANIFEST).write_text(complete.to_json())
        read_bundle(staging)
        staging.rename(directory)
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        raise
    return read_bundle(directory, verify_checksums=False)


def read_manifest(directory: Path) -> Manifest:
    """The manifest alone, unchecked against the files. Raises BundleCorrupt, BundleIncompatible."""
    path = directory / _MANIFEST
    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise BundleCorrupt(f"{_MANIFEST} is unreadable: {error}") from error
    return Manifest.from_json(text)


def read_bundle(directory: Path, *, verify_checksums: bool = True) -> Bundle:
    """Opens a bundle after checking that it is whole and consistent.

    `verify_checksums=False` skips the hashing of files and of item ids alone, for a directory that this machine has
    verified before.

    Raises BundleCorrupt (missing or truncated file, wrong checksum, unreadable part, vectors that are not finite) and
    BundleIncompatible (format version, dimension, vocabulary or schema that does not fit).
    """
    manifest = read_manifest(directory)
    _check_files(directory, manifest, verify_checksums=verify_checksums)
    item_vectors = _load_array(directory / _ITEM_VECTORS)
    items = ItemTable.read(directory / _ITEMS)
    item_vocabulary = _load_vocabulary(directory / _ITEM_KEYS)
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
        top_items=_load_npz(directory / _TOP_ITEMS),
        golden_queries=_read_golden_queries(directory / _GOLDEN_QUERIES),
        held_out_users=_read_held_out_users(directory / _HELD_OUT_USERS),
    )
    _check_consistency(bundle)
    if verify_checksums:
        _check_item_ids(bundle)
    return bundle


def _write_parts(staging: Path, parts: BundleParts) -> None:
    shutil.copyfile(parts.user_tower, staging / _USER_TOWER)
    shutil.copyfile(parts.item_tower, staging / _ITEM_TOWER)
    shutil.copyfile(parts.index, staging / _INDEX)
    np.save(staging / _ITEM_VECTORS, np.ascontiguousarray(parts.item_vectors, dtype=np.float32))
    np.save(staging / _ITEM_KEYS, np.asarray(parts.item_vocabulary.keys, dtype=np.uint64))
    parts.items.write(staging / _ITEMS)
    np.savez(staging / _TOP_ITEMS, allow_pickle=False, **dict(parts.top_items))
    golden = {f"{_GOLDEN_INPUT}{name}": array for name, array in parts.golden_queries.inputs.items()}
    np.savez(staging / _GOLDEN_QUERIES, allow_pickle=False, expected_rows=parts.golden_queries.expected_rows, **golden)
    with (staging / _HELD_OUT_USERS).open("w") as sink:
        for user in parts.held_out_users:
            state = base64.b64encode(user.state.to_bytes()).decode()
            line = {"user_id": user.user_id, "state": state, "target_item_id": user.target_item_id}
            sink.write(json.dumps(line) + "\n")
    if parts.user_vocabulary is not None:
        np.save(staging / _USER_KEYS, np.asarray(parts.user_vocabulary.keys, dtype=np.uint64))


def _check_files(directory: Path, manifest: Manifest, *, verify_checksums: bool) -> None:
    required = _REQUIRED | ({_USER_KEYS} if manifest.feature_schema.user_ids else set())
    if unlisted := sorted(required - manifest.files.keys()):
        raise BundleIncompatible(f"{_MANIFEST}: files does not list {', '.join(unlisted)}")
    for name, expected in manifest.files.items():
        path = directory / name
        if os.path.basename(name) != name:
            raise BundleIncompatible(f"{_MANIFEST}: {name!r} is not a file name")
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
    if not np.isfinite(bundle.item_vectors).all():
        raise BundleCorrupt(f"{_ITEM_VECTORS} holds values that are NaN or infinite")
    if num_items == 0:
        raise BundleIncompatible(f"{_ITEMS} holds no item")
    if len(bundle.item_vocabulary) != num_items:
        raise BundleIncompatible(f"{_ITEM_KEYS} holds {len(bundle.item_vocabulary)} keys for {num_items} items")
    if bundle.item_vocabulary.content_hash != manifest.item_vocabulary_hash:
        raise BundleIncompatible(f"{_ITEM_KEYS} is not the vocabulary that item_vocabulary_hash names")
    if bundle.user_vocabulary and bundle.user_vocabulary.content_hash != manifest.user_vocabulary_hash:
        raise BundleIncompatible(f"{_USER_KEYS} is not the vocabulary that user_vocabulary_hash names")
    if manifest.feature_schema.fingerprint != manifest.feature_schema_fingerprint:
        raise BundleIncompatible(f"{_MANIFEST}: feature_schema is not the one that feature_schema_fingerprint names")
    dims = {spec.shape[-1] for tower in (manifest.user_tower, manifest.item_tower) for spec in tower.outputs}
    if dims != {manifest.embedding_dim}:
        raise BundleIncompatible(
            f"{_MANIFEST}: towers put out vectors of {dims}, embedding_dim is {manifest.embedding_dim}"
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


def _check_item_ids(bundle: Bundle) -> None:
    """Row i must be the same item in the table and in the vocabulary, or every answer would name another item."""
    num_items = len(bundle.items)
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


def _read_held_out_users(path: Path) -> tuple[HeldOutUser, ...]:
    users = []
    for number, line in enumerate(path.read_bytes().splitlines(), start=1):
        try:
            raw = json.loads(line)
            state = UserState.from_bytes(base64.b64decode(raw["state"]))
            users.append(HeldOutUser(raw["user_id"], state, raw["target_item_id"]))
        except (ValueError, KeyError, TypeError, StoreValueError) as error:
            raise BundleCorrupt(f"{path.name} line {number} is unreadable: {error}") from error
    return tuple(users)


def _tower_spec(raw: Mapping[str, Sequence[Mapping[str, object]]]) -> TowerSpec:
    def specs(entries: Sequence[Mapping[str, object]]) -> tuple[TensorSpec, ...]:
        return tuple(TensorSpec(str(e["name"]), str(e["dtype"]), tuple(e["shape"])) for e in entries)  # type: ignore[arg-type]

    return TowerSpec(specs(raw["inputs"]), specs(raw["outputs"]))


def _load_vocabulary(path: Path) -> Vocabulary:
    keys = _load_array(path)
    if keys.dtype != np.uint64 or keys.ndim != 1:
        raise BundleIncompatible(f"{path.name} is {keys.dtype} in {keys.ndim} dimensions, not uint64 in 1")
    return Vocabulary(keys)


# numpy types what it loads as Any: the checks above are what says which arrays these are.
def _load_array(path: Path) -> npt.NDArray:  # type: ignore[type-arg]
    try:
        array: npt.NDArray = np.load(path, mmap_mode="r", allow_pickle=False)  # type: ignore[type-arg]
    except (ValueError, OSError, EOFError) as error:
        raise BundleCorrupt(f"{path.name} is unreadable: {error}") from error
    return array


def _load_npz(path: Path) -> dict[str, npt.NDArray]:  # type: ignore[type-arg]
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return dict(arrays)
    except Exception as error:  # zipfile and numpy raise a dozen kinds for damaged archives; each means the same here
        raise BundleCorrupt(f"{path.name} is unreadable: {error}") from error


def _sha256(path: Path) -> str:
    with path.open("rb") as source:
        return hashlib.file_digest(source, "sha256").hexdigest()
