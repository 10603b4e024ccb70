"""Synthetic catalogues as real bundles, from 1,700 to a million items, built once and kept.

`columns` draws their contents. The manifest's nprobe is the smallest that reaches the required recall on vectors of
held-out users, as in a trained bundle.
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
from typing import Final

import faiss
import numpy as np
import numpy.typing as npt
import onnx

from benchmarks.synthetic import onnx_models
from benchmarks.synthetic.columns import clustered, content_of, item_item_of, item_table, top_items, zipf_popularity
from benchmarks.synthetic.indexes import GOLDEN_K, build_index, exact_top, golden_queries, smallest_nprobe
from benchmarks.synthetic.users import Users, draw_users
from tandem.contract.bundle import Bundle, read_bundle, read_manifest, write_bundle
from tandem.contract.bundle_contents import BundleParts, Content, GoldenQueries
from tandem.contract.errors import BundleError
from tandem.contract.features import FeatureSchema, encode_users
from tandem.contract.held_out_users import HeldOutUser
from tandem.contract.item_item import ItemItem, item_item_scores
from tandem.contract.manifest import BlendSpec, Calibration, IndexSpec, ItemItemSpec, Manifest, TrainingData
from tandem.contract.vocabulary import MISSING_ROW, Rows, Vocabulary
from tandem.ops.onnx_session import OnnxSession

HISTORY_LENGTH: Final = 50
NUM_CATEGORIES: Final = 40
RECALL_AT: Final = 100

_BUILDER_VERSION: Final = 2
"""Part of the fingerprint. Increment it when a change here changes the bundle built from a spec."""
_RECALL_QUERIES: Final = 500
_ITEM_ITEM_WEIGHT: Final = 0.5
_DECAY_EVENTS: Final = 5.0
"""Of the item-item source in the blend, about as trainings choose them."""


@dataclass(frozen=True, kw_only=True)
class CatalogueSpec:
    """Parameters of a synthetic catalogue."""

    name: str
    num_items: int
    index: str
    """FAISS factory string of an IVF index."""
    min_recall: float
    """Required recall@100 on held-out users' vectors; nprobe is the smallest that reaches it."""
    dim: int = 64
    content_weight: float | None = 0.3
    """Weight of content in the blend; None: no blend."""
    content_dim: int = 64
    content_neighbours: int = 20
    item_item_neighbours: int = 0
    """Neighbours of each item in the item-item source; 0: the bundle has no such source."""
    num_users: int = 5000
    seed: int = 0

    @property
    def num_clusters(self) -> int:
        """At least 16; a cluster has about 250 items."""
        return max(16, self.num_items // 250)

    @property
    def fingerprint(self) -> str:
        """12 hex digits that change with every parameter that changes the bundle."""
        parameters = dataclasses.asdict(self)
        if not self.item_item_neighbours:
            del parameters["item_item_neighbours"]  # the bundle is as it was before there was the parameter
        text = json.dumps([_BUILDER_VERSION, parameters], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    @property
    def model_version(self) -> str:
        """The bundle's name in its manifest."""
        return f"bench-{self.name}-{self.fingerprint}"


SPECS: Final = {
    spec.name: spec
    for spec in (
        CatalogueSpec(name="tiny", num_items=600, index="IVF8,Flat", min_recall=0.99, num_users=200),
        CatalogueSpec(name="1.7k", num_items=1700, index="IVF32,Flat", min_recall=0.99),
        CatalogueSpec(name="ml-1m", num_items=3706, index="IVF64,Flat", min_recall=0.99),
        CatalogueSpec(
            name="ml-1m-hybrid", num_items=3706, index="IVF64,Flat", min_recall=0.99, item_item_neighbours=100
        ),
        CatalogueSpec(name="100k", num_items=100_000, index="IVF1024,SQ8", min_recall=0.95),
        CatalogueSpec(name="1m", num_items=1_000_000, index="IVF4096,SQ8", min_recall=0.95),
        CatalogueSpec(name="1m-x128", num_items=1_000_000, index="IVF4096,SQ8", min_recall=0.95, dim=128),
    )
}


@dataclass(frozen=True, kw_only=True)
class BuiltCatalogue:
    """A bundle and its users."""

    spec: CatalogueSpec
    bundle: Bundle
    users: Users
    build_seconds: float
    """Duration of the build, also for a catalogue that was built earlier."""


def build(spec: CatalogueSpec, directory: Path, *, log: Callable[[str], None] = print) -> BuiltCatalogue:
    """Builds a catalogue under `directory`, or opens it if the same spec was built there before."""
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
    """Copies a bundle under another model version into the new folder `directory`, by hard links. For hot swaps."""
    manifest: Manifest = read_manifest(bundle.directory)
    directory.mkdir(parents=True)
    for name in manifest.files:
        (directory / name).hardlink_to(bundle.directory / name)
    (directory / "manifest.json").write_text(dataclasses.replace(manifest, model_version=model_version).to_json())
    return read_bundle(directory, verify_checksums=False)


def _build(spec: CatalogueSpec, directory: Path, log: Callable[[str], None]) -> tuple[Bundle, Users]:
    rng = np.random.default_rng(spec.seed)
    clusters = rng.integers(spec.num_clusters, size=spec.num_items)
    vectors = clustered(rng, clusters, spec.num_clusters, spec.dim)
    popularity = zipf_popularity(rng, spec.num_items)
    item_ids = [f"item-{row}" for row in range(spec.num_items)]
    vocabulary = Vocabulary.from_ids(item_ids)
    categories = [f"category-{number}" for number in range(NUM_CATEGORIES)]
    own_categories = clusters % NUM_CATEGORIES
    items = item_table(rng, item_ids, own_categories, categories, popularity)
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
        index = build_index(spec.index, vectors, seed=spec.seed)
        log(f"  {spec.name}: the index is trained and filled")
        queries = users.vectors[spec.num_users :]
        exact = exact_top(vectors, queries, min(RECALL_AT, spec.num_items))
        nprobe, recall = smallest_nprobe(index, queries, exact, spec.min_recall)
        log(f"  {spec.name}: recall@{RECALL_AT} {recall:.4f} at nprobe {nprobe} of {index.nlist}")
        golden = golden_queries(index, queries, exact)
        faiss.write_index(index, str(index_file))
        del index
        golden_states = [users.state(spec.num_users + int(query), vocabulary) for query in golden]
        content = None
        if spec.content_weight is not None:
            content = content_of(
                rng,
                clusters,
                num_clusters=spec.num_clusters,
                dim=spec.content_dim,
                num_neighbours=spec.content_neighbours,
            )
        item_item = None
        if spec.item_item_neighbours:
            item_item = item_item_of(rng, clusters, num_clusters=spec.num_clusters, num=spec.item_item_neighbours)
        bundle = write_bundle(
            directory,
            _manifest(
                spec,
                schema=schema,
                vectors=vectors,
                content=content,
                users=users,
                index=IndexSpec(spec.index, nprobe, recall),
                item_item=item_item,
            ),
            BundleParts(
                user_tower=user_tower,
                item_tower=item_tower,
                index=index_file,
                item_vectors=vectors,
                items=items,
                item_vocabulary=vocabulary,
                top_items=top_items(popularity, own_categories, categories),
                golden_queries=GoldenQueries(
                    encode_users(golden_states, schema=schema, item_vocabulary=vocabulary, item_vectors=vectors),
                    exact[golden][:, :GOLDEN_K],
                ),
                held_out_users=tuple(
                    HeldOutUser(f"held-out-{index}", state, f"item-{exact[golden[index], 0]}")
                    for index, state in enumerate(golden_states)
                ),
                content=content,
                item_item=item_item,
            ),
        )
    return bundle, users.first(spec.num_users)


def _encode(
    users: Users, vocabulary: Vocabulary, vectors: npt.NDArray[np.float32], schema: FeatureSchema, tower: Path
) -> npt.NDArray[np.float32]:
    session = OnnxSession(tower)
    parts = []
    for start in range(0, len(users), 256):
        states = [users.state(user, vocabulary) for user in range(start, min(start + 256, len(users)))]
        tensors = encode_users(states, schema=schema, item_vocabulary=vocabulary, item_vectors=vectors)
        parts.append(session(tensors))
    return np.concatenate(parts)


def _manifest(
    spec: CatalogueSpec,
    *,
    schema: FeatureSchema,
    vectors: npt.NDArray[np.float32],
    content: Content | None,
    users: Users,
    index: IndexSpec,
    item_item: ItemItem | None,
) -> Manifest:
    sampled = np.random.default_rng(spec.seed).integers(spec.num_items, size=2000)
    collaborative = users.vectors[:256] @ vectors[sampled].T
    blend = None
    if content is not None and spec.content_weight is not None:
        sampled_content = content.vectors[sampled].astype(np.float32)
        blend = BlendSpec(
            spec.content_weight,
            _calibration(collaborative),
            _calibration(sampled_content[:256] @ sampled_content.T),
            None if item_item is None else _item_item_spec(item_item, users, sampled),
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


def _item_item_spec(item_item: ItemItem, users: Users, sampled: Rows) -> ItemItemSpec:
    histories = np.full((256, HISTORY_LENGTH), MISSING_ROW, dtype=np.int64)
    for user, history in enumerate(histories):
        newest = users.rows(user)[-HISTORY_LENGTH:]
        history[HISTORY_LENGTH - len(newest) :] = newest
    candidates = np.broadcast_to(sampled, (len(histories), len(sampled)))
    scores = item_item_scores(item_item, histories, _DECAY_EVENTS, candidates)
    return ItemItemSpec(_ITEM_ITEM_WEIGHT, _DECAY_EVENTS, _calibration(scores))


def _calibration(scores: npt.NDArray[np.float32]) -> Calibration:
    return Calibration(float(scores.mean()), float(scores.std()))
