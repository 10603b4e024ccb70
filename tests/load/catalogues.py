"""Synthetic catalogues as real bundles, from 1,700 to a million items, built once and kept.

Items lie in clusters, and clusters in groups, because the recall of an IVF index at some nprobe means nothing on random
vectors; popularity is Zipf's. Everything large is a numpy or Arrow column: a million `Item` objects would take minutes
and gigabytes. Content neighbours are exact inside a cluster of content and never outside of one, because all pairs of a
million items are too many.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import faiss
import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import pyarrow as pa
import pyarrow.compute as pc

from tandem.contract import items as contract_items
from tandem.contract import names
from tandem.contract.bundle import (
    Bundle,
    BundleParts,
    Content,
    GoldenQueries,
    HeldOutUser,
    read_bundle,
    read_manifest,
    write_bundle,
)
from tandem.contract.errors import BundleError
from tandem.contract.features import FeatureSchema, encode_users
from tandem.contract.items import ItemTable
from tandem.contract.manifest import BlendSpec, Calibration, IndexSpec, Manifest, TrainingData
from tandem.contract.vocabulary import Rows, Vocabulary
from tests.load import onnx_models
from tests.load.users import Users, draw_users

HISTORY_LENGTH: Final = 50
NUM_CATEGORIES: Final = 40
NUM_BRANDS: Final = 200
BRAND: Final = "brand"
PRICE: Final = "price"
RECALL_AT: Final = 100

_BUILDER_VERSION: Final = 1
"""Part of the fingerprint: raise it when what is built changes."""
_GOLDEN_QUERIES: Final = 16
_GOLDEN_K: Final = 10
_TOP_ITEMS: Final = 500
_CHUNK: Final = 100_000
_RECALL_QUERIES: Final = 500
_NOISE: Final = 0.8
"""Length of an item's distance from its cluster's centre, whose length is 1."""


@dataclass(frozen=True, kw_only=True)
class CatalogueSpec:
    """What a synthetic catalogue is like."""

    name: str
    num_items: int
    index: str
    """FAISS factory string of an IVF index."""
    min_recall: float
    """Least recall@100 on held-out users' vectors; the smallest nprobe that has it is taken."""
    dim: int = 64
    content_weight: float | None = 0.3
    """Share of content in the blend; None: no blend."""
    content_dim: int = 64
    content_neighbours: int = 20
    num_users: int = 5000
    seed: int = 0

    @property
    def num_clusters(self) -> int:
        """About 250 items each, at least 16."""
        return max(16, self.num_items // 250)

    @property
    def fingerprint(self) -> str:
        """Changes with anything that changes the bundle."""
        text = json.dumps([_BUILDER_VERSION, dataclasses.asdict(self)], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    @property
    def model_version(self) -> str:
        return f"bench-{self.name}-{self.fingerprint}"


SPECS: Final = {
    spec.name: spec
    for spec in (
        CatalogueSpec(name="tiny", num_items=600, index="IVF8,Flat", min_recall=0.99, num_users=200),
        CatalogueSpec(name="1.7k", num_items=1700, index="IVF32,Flat", min_recall=0.99),
        CatalogueSpec(name="ml-1m", num_items=3706, index="IVF64,Flat", min_recall=0.99),
        CatalogueSpec(name="100k", num_items=100_000, index="IVF1024,SQ8", min_recall=0.95),
        CatalogueSpec(name="1m", num_items=1_000_000, index="IVF4096,SQ8", min_recall=0.95),
        CatalogueSpec(name="1m-x128", num_items=1_000_000, index="IVF4096,SQ8", min_recall=0.95, dim=128),
    )
}


@dataclass(frozen=True, kw_only=True)
class BuiltCatalogue:
    """A bundle with users for it."""

    spec: CatalogueSpec
    bundle: Bundle
    users: Users
    build_seconds: float
    """What building took when it was built; it is kept since."""


def build(spec: CatalogueSpec, directory: Path, *, log: Callable[[str], None] = print) -> BuiltCatalogue:
    """Builds a catalogue under `directory`, or opens the one built before with the same spec."""
    folder = directory / f"{spec.name}-{spec.fingerprint}"
    try:
        bundle = read_bundle(folder / "bundle", verify_checksums=False)
        users = Users.load(folder / "users.npz")
        seconds = json.loads((folder / "build.json").read_text())["seconds"]
        return BuiltCatalogue(spec=spec, bundle=bundle, users=users, build_seconds=seconds)
    except (BundleError, OSError):
        pass
    log(f"building the catalogue {spec.name}: {spec.num_items:,} items of dimension {spec.dim}")
    started = time.perf_counter()
    folder.mkdir(parents=True, exist_ok=True)
    bundle, users = _build(spec, folder / "bundle", log)
    users.save(folder / "users.npz")
    seconds = time.perf_counter() - started
    (folder / "build.json").write_text(json.dumps({"seconds": round(seconds, 1)}) + "\n")
    log(f"built {spec.name} in {seconds:.0f} s: nprobe {bundle.manifest.index.nprobe}")
    return BuiltCatalogue(spec=spec, bundle=bundle, users=users, build_seconds=seconds)


def renamed(bundle: Bundle, directory: Path, model_version: str) -> Bundle:
    """The same bundle under another model version, in the new folder `directory`: what a hot swap swaps to."""
    manifest: Manifest = read_manifest(bundle.directory)
    directory.mkdir(parents=True)
    for name in manifest.files:
        (directory / name).hardlink_to(bundle.directory / name)
    (directory / "manifest.json").write_text(dataclasses.replace(manifest, model_version=model_version).to_json())
    return read_bundle(directory, verify_checksums=False)


def _build(spec: CatalogueSpec, directory: Path, log: Callable[[str], None]) -> tuple[Bundle, Users]:
    rng = np.random.default_rng(spec.seed)
    clusters = rng.integers(spec.num_clusters, size=spec.num_items)
    vectors = _clustered(rng, clusters, spec.num_clusters, spec.dim)
    popularity = _zipf_popularity(rng, spec.num_items)
    item_ids = [f"item-{row}" for row in range(spec.num_items)]
    vocabulary = Vocabulary.from_ids(item_ids)
    categories = [f"category-{number}" for number in range(NUM_CATEGORIES)]
    own_categories = clusters % NUM_CATEGORIES
    items = _item_table(rng, item_ids, own_categories, categories, popularity)
    del item_ids
    schema = FeatureSchema(history_length=HISTORY_LENGTH, item_categories=tuple(categories), max_item_categories=2)
    with tempfile.TemporaryDirectory(dir=directory.parent) as scratch:
        user_tower, item_tower, index_file = (Path(scratch, name) for name in ("user.onnx", "item.onnx", "index"))
        tower = onnx_models.user_tower(dim=spec.dim, history_length=HISTORY_LENGTH, seed=spec.seed)
        onnx.save(tower, str(user_tower))
        onnx.save(onnx_models.item_tower(dim=spec.dim, seed=spec.seed), str(item_tower))
        drawn = draw_users(
            rng, clusters=clusters, popularity=popularity, num_users=spec.num_users + _RECALL_QUERIES, name=spec.name
        )
        users = drawn.with_vectors(_encode(drawn, vocabulary, vectors, schema, user_tower))
        log(f"  {spec.name}: items and users are drawn")
        index = _train_index(spec, vectors)
        log(f"  {spec.name}: the index is trained and filled")
        queries = users.vectors[spec.num_users :]
        exact = _exact_top(vectors, queries, min(RECALL_AT, spec.num_items))
        nprobe, recall = smallest_nprobe(index, queries, exact, spec.min_recall)
        log(f"  {spec.name}: recall@{RECALL_AT} {recall:.4f} at nprobe {nprobe} of {index.nlist}")
        golden = _golden_users(index, queries, exact)
        faiss.write_index(index, str(index_file))
        del index
        golden_states = [users.state(spec.num_users + int(place), vocabulary) for place in golden]
        content = _content(rng, spec, clusters) if spec.content_weight is not None else None
        bundle = write_bundle(
            directory,
            _manifest(spec, schema, vectors, content, users, IndexSpec(spec.index, nprobe, recall)),
            BundleParts(
                user_tower=user_tower,
                item_tower=item_tower,
                index=index_file,
                item_vectors=vectors,
                items=items,
                item_vocabulary=vocabulary,
                top_items=_top_items(popularity, own_categories, categories),
                golden_queries=GoldenQueries(
                    encode_users(golden_states, schema=schema, item_vocabulary=vocabulary, item_vectors=vectors),
                    exact[golden][:, :_GOLDEN_K],
                ),
                held_out_users=[
                    HeldOutUser(f"held-out-{place}", state, f"item-{exact[golden[place], 0]}")
                    for place, state in enumerate(golden_states)
                ],
                content=content,
            ),
        )
    return bundle, users.first(spec.num_users)


def _clustered(rng: np.random.Generator, clusters: Rows, num_clusters: int, dim: int) -> npt.NDArray[np.float32]:
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


def _zipf_popularity(rng: np.random.Generator, num_items: int) -> npt.NDArray[np.int64]:
    """(items,) int64, at least 1: interactions that fall with the rank; ranks are dealt at random."""
    ranks = rng.permutation(num_items)
    weights = 1.0 / (ranks + 10.0)
    total = 20.0 * num_items
    return np.maximum(1, (weights / weights.sum() * total)).astype(np.int64)


def _item_table(
    rng: np.random.Generator,
    item_ids: list[str],
    own_categories: Rows,
    categories: list[str],
    popularity: npt.NDArray[np.int64],
) -> ItemTable:
    """Every item has its cluster's category and, one in two, a second one; a brand (text) and a price (a number)."""
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
    # Brand and price of an item lie side by side, as a map's entries do.
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
    }
    arrays = [columns[name] for name in contract_items.SCHEMA.names]
    return ItemTable(pa.Table.from_arrays(arrays, schema=contract_items.SCHEMA))


def _encode(
    users: Users, vocabulary: Vocabulary, vectors: npt.NDArray[np.float32], schema: FeatureSchema, tower: Path
) -> npt.NDArray[np.float32]:
    session = onnxruntime.InferenceSession(str(tower), providers=["CPUExecutionProvider"])
    read = [tensor.name for tensor in session.get_inputs()]
    parts = []
    for start in range(0, len(users), 256):
        states = [users.state(user, vocabulary) for user in range(start, min(start + 256, len(users)))]
        tensors = encode_users(states, schema=schema, item_vocabulary=vocabulary, item_vectors=vectors)
        parts.append(session.run([names.USER_VECTOR], {name: tensors[name] for name in read})[0])
    return np.concatenate(parts)


def _train_index(spec: CatalogueSpec, vectors: npt.NDArray[np.float32]) -> faiss.IndexIVF:
    index: Any = faiss.index_factory(spec.dim, spec.index, faiss.METRIC_INNER_PRODUCT)
    index.cp.min_points_per_centroid = 1  # a tiny catalogue is no mistake here, so no warning
    index.cp.max_points_per_centroid = 64
    rng = np.random.default_rng(spec.seed)
    sample = rng.permutation(len(vectors))[: 64 * index.nlist]
    index.train(vectors[np.sort(sample)])
    for start in range(0, len(vectors), _CHUNK):
        index.add(vectors[start : start + _CHUNK])
    return index


def _exact_top(vectors: npt.NDArray[np.float32], queries: npt.NDArray[np.float32], k: int) -> Rows:
    flat = faiss.IndexFlatIP(vectors.shape[1])
    flat.add(vectors)
    rows: Rows = flat.search(queries, k)[1]
    return rows


def smallest_nprobe(
    index: faiss.IndexIVF, queries: npt.NDArray[np.float32], exact: Rows, min_recall: float
) -> tuple[int, float]:
    """The smallest nprobe at which the index finds `min_recall` of the exact rows (queries, k), and what it finds.

    Recall grows with nprobe, so the range is halved. Raises ValueError when even all lists do not have it.
    """

    def recall(nprobe: int) -> float:
        _, found = index.search(queries, exact.shape[1], params=faiss.SearchParametersIVF(nprobe=nprobe))
        hits = sum(len(np.intersect1d(ours, truth)) for ours, truth in zip(found, exact, strict=True))
        return hits / exact.size

    high, best = 1, recall(1)
    while best < min_recall:
        if high == index.nlist:
            raise ValueError(f"all lists together have recall {best:.4f}, {min_recall} asked for")
        high = min(2 * high, index.nlist)
        best = recall(high)
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        if (found := recall(middle)) >= min_recall:
            high, best = middle, found
        else:
            low = middle
    return high, best


def _golden_users(index: faiss.IndexIVF, queries: npt.NDArray[np.float32], exact: Rows) -> Rows:
    """The queries whose first answers the index finds most completely when it searches all lists.

    The server refuses a bundle whose index misses one golden answer in a hundred, and a quantised index does miss some.
    """
    k = min(_GOLDEN_K, exact.shape[1])
    num_queries = min(4 * _GOLDEN_QUERIES, len(queries))
    all_lists = faiss.SearchParametersIVF(nprobe=index.nlist)
    _, found = index.search(queries[:num_queries], k, params=all_lists)
    hits = [len(np.intersect1d(found[place], exact[place, :k])) for place in range(num_queries)]
    return np.argsort(-np.array(hits), kind="stable")[:_GOLDEN_QUERIES]


def _content(rng: np.random.Generator, spec: CatalogueSpec, clusters: Rows) -> Content:
    vectors = _clustered(rng, clusters, spec.num_clusters, spec.content_dim)
    neighbours = np.full((spec.num_items, spec.content_neighbours), -1, dtype=np.int32)
    order = np.argsort(clusters, kind="stable")
    for rows in np.split(order, np.cumsum(np.bincount(clusters, minlength=spec.num_clusters))[:-1]):
        similarities = vectors[rows] @ vectors[rows].T  # (members, members) float32
        np.fill_diagonal(similarities, -np.inf)
        k = min(spec.content_neighbours, len(rows) - 1)
        if k > 0:
            neighbours[rows, :k] = rows[np.argsort(-similarities, axis=1)[:, :k]]
    return Content(vectors.astype(np.float16), neighbours)


def _top_items(
    popularity: npt.NDArray[np.int64], own_categories: Rows, categories: list[str]
) -> dict[str, npt.NDArray[np.int64]]:
    order = np.argsort(-popularity, kind="stable")
    segments = {names.SEGMENT_ALL: order[:_TOP_ITEMS]}
    for code, category in enumerate(categories):
        segments[names.CATEGORY_SEGMENT + category] = order[own_categories[order] == code][:_TOP_ITEMS]
    return segments


def _manifest(
    spec: CatalogueSpec,
    schema: FeatureSchema,
    vectors: npt.NDArray[np.float32],
    content: Content | None,
    users: Users,
    index: IndexSpec,
) -> Manifest:
    sampled = np.random.default_rng(spec.seed).integers(spec.num_items, size=2000)
    collaborative = users.vectors[:256] @ vectors[sampled].T
    blend = None
    if content is not None and spec.content_weight is not None:
        sampled_content = content.vectors[sampled].astype(np.float32)
        blend = BlendSpec(
            spec.content_weight, _calibration(collaborative), _calibration(sampled_content[:256] @ sampled_content.T)
        )
    history = {"history_length": HISTORY_LENGTH, "dim": spec.dim}
    return Manifest(
        model_version=spec.model_version,
        created_at="2026-01-01T00:00:00Z",
        training_data=TrainingData(
            f"synthetic-{spec.name}", "0" * 64, spec.num_users, spec.num_items, int(users.offsets[-1])
        ),
        feature_schema=schema,
        user_tower=onnx_models.user_tower_spec(**history),
        item_tower=onnx_models.item_tower_spec(dim=spec.dim),
        embedding_dim=spec.dim,
        similarity="cosine",
        index=index,
        metrics={},
        blend=blend,
        onnx_max_abs_difference=0.0,
    )


def _calibration(scores: npt.NDArray[np.float32]) -> Calibration:
    return Calibration(float(scores.mean()), float(scores.std()))
