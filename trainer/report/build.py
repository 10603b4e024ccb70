"""Builds a run's report from its measurements and its exported bundle."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from tandem.contract.bundle import Bundle
from tandem.contract.deleted_users import DeletedUsers
from tandem.ops.onnx_session import OnnxSession
from trainer.experiments.test_set_metrics import TestResult
from trainer.report.contents import RunReport
from trainer.report.gather import example_users, map_points
from trainer.report.model_card import CardContents, ranking_of
from trainer.scoring.scoring_model import ScoringModel
from trainer.training.progress import EpochReport
from trainer.vectors.faiss_index import recall_and_latency

MAX_LATENCY_USERS = 300
"""Maximum number of held-out users whose vectors are searched to measure the latency of each nprobe."""


def build_report(
    card: CardContents,
    result: TestResult,
    bundle: Bundle,
    epochs: Sequence[EpochReport],
    best_epoch: int,
    *,
    deleted: DeletedUsers,
) -> RunReport:
    """The report of a run whose model is `bundle`. `best_epoch` is the epoch that validation chose; no `deleted` user
    is shown."""
    manifest = bundle.manifest
    shown = list(dict.fromkeys([next(iter(result.scorers)), result.comparison.baseline]))
    return RunReport(
        model_version=manifest.model_version,
        created_at=manifest.created_at,
        facts=_facts(bundle),
        comparison=result.comparison,
        epochs=tuple(epochs),
        best_epoch=best_epoch,
        index_points=recall_and_latency(bundle.index, _held_out_vectors(bundle), np.asarray(bundle.item_vectors)),
        nprobe=manifest.index.nprobe,
        map_points=map_points(result.split.known.catalogue, np.asarray(bundle.item_vectors)),
        users=tuple(
            user
            for user in example_users(result.split, {name: result.scorers[name] for name in shown})
            if deleted.deleted_at(user.user_id) is None
        ),
        config_toml=card.config_toml,
        command=card.command,
    )


def _held_out_vectors(bundle: Bundle) -> npt.NDArray[np.float32]:
    """(users, dim) float32, vectors of the bundle's held-out users by its own tower."""
    users = bundle.held_out_users[:MAX_LATENCY_USERS]
    model = ScoringModel.of_bundle(bundle, OnnxSession(bundle.user_tower))
    return model.vectors_of([user.user_id for user in users], [user.state for user in users])


def _facts(bundle: Bundle) -> dict[str, str]:
    manifest, data = bundle.manifest, bundle.manifest.training_data
    size = sum(int(entry["bytes"]) for entry in manifest.files.values())
    return {
        "written": manifest.created_at,
        "data set": data.name,
        "users, items, interactions": f"{data.num_users:,}, {data.num_items:,}, {data.num_interactions:,}",
        "fingerprint": data.fingerprint,
        "vectors": f"{manifest.embedding_dim} dimensions, {manifest.similarity}",
        "ranking": ranking_of(manifest),
        "index": f"{manifest.index.kind}, nprobe {manifest.index.nprobe}",
        "recall@100 of the index": f"{manifest.index.recall_at_100:.4f}",
        "ONNX against PyTorch": f"{manifest.onnx_max_abs_difference:.1e} at most",
        "size of the bundle": f"{size / 1e6:.1f} MB",
    }
