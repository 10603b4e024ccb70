"""Exports a trained model as a bundle: towers, vectors, index, item table, lists, golden queries, content."""

from __future__ import annotations

import datetime
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from tandem.contract import names
from tandem.contract.bundle import Bundle, write_bundle
from tandem.contract.bundle_contents import BundleParts, GoldenQueries
from tandem.contract.deleted_users import NOBODY, DeletedUsers
from tandem.contract.features import FeatureSchema, Tensors, encode_index, encode_users
from tandem.contract.items import Item, ItemTable
from tandem.contract.manifest import BlendSpec, Manifest, TrainingData
from tandem.contract.vocabulary import Vocabulary
from tandem.ops.onnx_session import OnnxSession
from trainer.config.train_config import TrainConfig
from trainer.dataset.dataset import Catalogue, Dataset, HoldOut, held_out_users, history_states, sample_positions
from trainer.export.onnx import export_item_tower, export_user_tower
from trainer.models.two_tower import TwoTowerModel
from trainer.rankers.base.ranker import FittedRanker
from trainer.rankers.blend.choice import calibrate
from trainer.scoring.scoring_model import ScoringModel
from trainer.sources.base.source import FittedSource, Shares
from trainer.vectors.faiss_index import build_index, exact_top

TOP_N = 500
"""Length of the lists of popular items: the most items that a request may ask for."""
GOLDEN_USERS = 32
GOLDEN_K = 10
HELD_OUT_USERS = 1_000
ITEM_BATCH = 4_096


def no_model_card(_: Manifest) -> str:
    """For a bundle without a model card."""
    return ""


@dataclass(frozen=True, kw_only=True)
class ExportInputs:
    """Inputs of an export."""

    model: TwoTowerModel
    schema: FeatureSchema
    item_tensors: Tensors
    dataset: Dataset
    hold_out: HoldOut
    """Users with a last item that the model has never seen."""
    training_data: TrainingData
    model_version: str
    metrics: Mapping[str, float]
    sources: Mapping[str, FittedSource] = field(default_factory=dict)
    """The served sources, by name."""
    shares: Shares | None = None
    """Shares of these sources in the blend; None leaves the bundle without a blend."""
    model_card: Callable[[Manifest], str] = no_model_card
    """Writes the model card from the manifest, which holds the export's measurements."""
    ranker: FittedRanker | None = None
    """Ranks instead of the blend; None leaves the bundle without an ONNX ranker."""
    min_rating: float | None = None
    """See `Manifest.min_rating`."""
    event_weights: Mapping[str, float] = field(default_factory=dict)
    """See `Manifest.event_weights`."""
    catalogue_sequence: int = 0
    """Sequence number of the last change of the live catalogue that the data set's items include."""
    deleted: DeletedUsers = NOBODY
    """Users who are not among the held-out ones."""


def new_model_version(fingerprint: str) -> str:
    """A name for a new bundle: the time in UTC, to the millisecond, and the first 8 characters of `fingerprint`."""
    now = datetime.datetime.now(datetime.UTC)
    return f"{now:%Y%m%d-%H%M%S}-{now.microsecond // 1000:03d}-{fingerprint[:8]}"


def export_bundle(inputs: ExportInputs, config: TrainConfig, directory: Path) -> Bundle:
    """Writes the bundle to `directory`, reads it back and returns it.

    Raises ExportError if a tower in ONNX differs from PyTorch or the index misses its recall, BundleError if the bundle
    fails its own checks.
    """
    dim = config.towers.embedding_dim
    with tempfile.TemporaryDirectory(prefix="tandem-export-") as scratch:
        item_tower = export_item_tower(inputs.model, inputs.item_tensors, Path(scratch, "item_tower.onnx"), dim=dim)
        user_tower = export_user_tower(inputs.model, inputs.schema, Path(scratch, "user_tower.onnx"), dim=dim)
        ranker = None if inputs.ranker is None else inputs.ranker.export(Path(scratch, "ranker.onnx"))
        # The exported towers compute the vectors, because they will be served, and not the PyTorch model.
        item_vectors = run_item_tower(OnnxSession(item_tower.path), inputs.item_tensors)
        user_vocabulary = Vocabulary.from_ids(inputs.dataset.user_ids) if inputs.schema.user_ids else None
        served_user_tower = OnnxSession(user_tower.path)
        held_out = _held_out_positions(inputs)
        tensors = _user_tensors(inputs, held_out, item_vectors)
        user_vectors = served_user_tower(tensors)
        index = build_index(item_vectors, user_vectors, config.index, Path(scratch, "index.faiss"))
        golden = {name: array[:GOLDEN_USERS] for name, array in tensors.items()}
        popularity = inputs.dataset.popularity(inputs.hold_out.num_history_events)
        items = item_table(inputs.dataset.catalogue, popularity)
        manifest = Manifest(
            model_version=inputs.model_version,
            created_at=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            training_data=inputs.training_data,
            feature_schema=inputs.schema,
            user_tower=user_tower.spec,
            item_tower=item_tower.spec,
            embedding_dim=dim,
            similarity=config.towers.similarity,
            index=index.spec,
            metrics=inputs.metrics,
            onnx_max_abs_difference=max(
                exported.max_abs_difference for exported in (item_tower, user_tower, ranker) if exported is not None
            ),
            ranker=None if ranker is None else ranker.spec,
            catalogue_sequence=inputs.catalogue_sequence,
            min_rating=inputs.min_rating,
            event_weights=inputs.event_weights,
            blend=_blend(
                inputs,
                ScoringModel(
                    schema=inputs.schema,
                    item_vocabulary=inputs.dataset.catalogue.vocabulary,
                    user_vocabulary=user_vocabulary,
                    item_vectors=item_vectors,
                    user_vectors=served_user_tower,
                    sources=inputs.sources,
                ),
            ),
        )
        parts = BundleParts(
            user_tower=user_tower.path,
            item_tower=item_tower.path,
            index=index.path,
            item_vectors=item_vectors,
            items=items,
            item_vocabulary=inputs.dataset.catalogue.vocabulary,
            top_items=top_items(items, popularity),
            golden_queries=GoldenQueries(
                golden, exact_top(user_vectors[:GOLDEN_USERS], item_vectors, min(GOLDEN_K, len(items)))
            ),
            held_out_users=tuple(held_out_users(inputs.dataset, inputs.hold_out, held_out)),
            user_vocabulary=user_vocabulary,
            event_counts=inputs.dataset.event_counts(inputs.hold_out.num_history_events),
            model_card=inputs.model_card(manifest),
            ranker=None if ranker is None else ranker.path,
        )
        for source in inputs.sources.values():
            parts = source.write(parts)
        return write_bundle(directory, manifest, parts)


def run_item_tower(tower: OnnxSession, item_tensors: Tensors) -> npt.NDArray[np.float32]:
    """Vectors of all items in batches: (items, dim) float32."""
    count = len(item_tensors[names.ITEM_INDEX])
    batches = [slice(start, start + ITEM_BATCH) for start in range(0, count, ITEM_BATCH)]
    return np.concatenate([tower({name: array[rows] for name, array in item_tensors.items()}) for rows in batches])


def item_table(catalogue: Catalogue, popularity: npt.NDArray[np.int64]) -> ItemTable:
    """The catalogue as serving reads it. `popularity` is (items,) int64."""
    return ItemTable.from_items(
        Item(
            item_id=catalogue.item_ids[row],
            title=catalogue.titles[row],
            categories=tuple(catalogue.categories[row]),
            attributes=catalogue.attributes[row],
            popularity=int(popularity[row]),
            available=bool(catalogue.available[row]),
        )
        for row in range(len(catalogue))
    )


def top_items(items: ItemTable, popularity: npt.NDArray[np.int64]) -> dict[str, npt.NDArray[np.int64]]:
    """The most popular available items of the catalogue and of every category, best first; ties in row order."""
    order = np.argsort(-popularity, kind="stable")
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    unavailable = items.unavailable_rows
    lists = {names.SEGMENT_ALL: order[~np.isin(order, unavailable)][:TOP_N]}
    for category, category_rows in items.rows_by_category().items():
        rows = np.setdiff1d(category_rows, unavailable, assume_unique=True)
        lists[names.CATEGORY_SEGMENT + category] = rows[np.argsort(rank[rows], kind="stable")][:TOP_N]
    return lists


def _blend(inputs: ExportInputs, model: ScoringModel) -> BlendSpec | None:
    """The chosen shares, calibrated on the vectors that will be served."""
    if inputs.shares is None:
        return None
    return calibrate(inputs.dataset, inputs.hold_out, model, inputs.shares)


def _held_out_positions(inputs: ExportInputs) -> npt.NDArray[np.int64]:
    """Positions in `hold_out.users` of the users whom the bundle holds, (n,) int64, without those deleted meanwhile."""
    positions = sample_positions(inputs.hold_out, HELD_OUT_USERS)
    users = inputs.hold_out.users[positions]
    kept = [inputs.deleted.deleted_at(inputs.dataset.user_ids[user]) is None for user in users]
    return positions[np.array(kept, dtype=np.bool_)]


def _user_tensors(
    inputs: ExportInputs, positions: npt.NDArray[np.int64], item_vectors: npt.NDArray[np.float32]
) -> Tensors:
    users = inputs.hold_out.users[positions]
    return encode_users(
        history_states(inputs.dataset, inputs.hold_out, users),
        schema=inputs.schema,
        item_vocabulary=inputs.dataset.catalogue.vocabulary,
        item_vectors=item_vectors,
        user_index=encode_index(users),
    )
