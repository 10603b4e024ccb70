"""A source and a ranker that a test adds to the registries are trained, measured, exported and read like the rest."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from mlflow import MlflowClient
from torch import nn

from tandem.contract import names
from tandem.contract.bundle import Bundle, read_bundle
from tandem.contract.bundle_contents import BundleParts
from tandem.contract.features import Tensors
from tandem.contract.vocabulary import Rows
from tandem.ops.onnx_session import OnnxSession
from tests.support.checkerboard import write_checkerboard
from tests.support.registries import new_registry
from tests.trainer.bundle_ranks import bundle_ranks
from trainer.compute.onnx_export import ExportedNetwork, NetworkOutput, export_network
from trainer.config.train_config import TrainConfig, load_train_config
from trainer.core.settings import Settings
from trainer.data.config import load_data_config
from trainer.dataset.dataset import Cut, HoldOut, leave_last_out, load_dataset
from trainer.evaluation.metrics import metrics_per_user
from trainer.features.encoded import Encoded
from trainer.pipeline.train_run import RunOptions, RunResult, train_and_register
from trainer.rankers.all_rankers import RANKERS
from trainer.rankers.base.frozen_towers import FrozenTowers
from trainer.rankers.base.ranker import RankerTrial
from trainer.scoring.candidate_ranking import candidates_of
from trainer.scoring.scoring_model import ScoringModel
from trainer.sources.all_sources import SOURCES
from trainer.sources.base.source import Histories

pytestmark = pytest.mark.slow

NUM_ITEMS = 24
NUM_PROPOSED = NUM_ITEMS // 2
NUM_BY_TOWERS = 3
"""Candidates of the two towers, which would otherwise propose the whole of this small catalogue."""
OVERRIDES = {
    "towers.embedding_dim": "16",
    "towers.num_layers": "1",
    "text.encoder": "none",
    # The towers learn nothing, and the good sources get no share: only the new ranker can find the answer.
    "fit.max_epochs": "1",
    "fit.learning_rate": "1e-9",
    "item_item.max_items": "0",
    "sequential.max_items": "0",
    "ranker.content_weights": "0",
    "ranker.kind": "auto",
    "ncf.max_epochs": "1",
    "ncf.learning_rate": "1e-9",
    "ncf.max_examples": "100",
}


@dataclass(frozen=True)
class FittedPopular:
    rows: Rows

    def candidates(self, histories: Histories) -> Rows:
        return np.tile(self.rows, (len(histories.rows(1)), 1))

    def write(self, parts: BundleParts) -> BundleParts:
        return parts  # every bundle has the lists of popular items


@dataclass(frozen=True)
class Popular:
    """The most popular items as a source."""

    name: str = names.SOURCE_POPULAR

    def fit(self, encoded: Encoded, cut: Cut, config: TrainConfig) -> FittedPopular:  # noqa: ARG002 - has no settings
        popularity = encoded.dataset.popularity(cut.num_history_events)
        return FittedPopular(np.argsort(-popularity, kind="stable")[:NUM_PROPOSED])

    def read(self, bundle: Bundle) -> FittedPopular:
        return FittedPopular(bundle.top_items[names.SEGMENT_ALL][:NUM_PROPOSED])


class ContentOnly(nn.Module):
    def forward(self, content_score: torch.Tensor) -> torch.Tensor:
        return 2.0 * content_score


@dataclass(frozen=True)
class FittedByContent:
    num_fits: int

    def pair_scores(self, tensors: Tensors) -> npt.NDArray[np.float32]:
        return np.float32(2.0) * tensors[names.RANKER_CONTENT_SCORE]

    def refit(self, towers: FrozenTowers, cut: Cut) -> FittedByContent:  # noqa: ARG002 - learns nothing
        return FittedByContent(self.num_fits + 1)

    def export(self, path: Path) -> ExportedNetwork:
        assert self.num_fits == 2, "the exported ranker was refitted"
        generator = np.random.default_rng(0)

        def sample(batch: int) -> Tensors:
            return {names.RANKER_CONTENT_SCORE: generator.uniform(-1.0, 1.0, batch).astype(np.float32)}

        output = NetworkOutput(names.RANKER_SCORE, None)
        return export_network(ContentOnly(), [names.RANKER_CONTENT_SCORE], sample, path, output)


@dataclass(frozen=True)
class ByContent:
    """Ranks by the content score."""

    kind: str = "by_content"

    def try_out(self, towers: FrozenTowers, validation: HoldOut) -> RankerTrial:
        ranker = FittedByContent(num_fits=1)
        return RankerTrial(metrics=towers.metrics(validation, ranker.pair_scores), ranker=ranker)


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunResult]:
    folder = tmp_path_factory.mktemp("registries")
    toml = write_checkerboard(folder, num_users=40, num_items=NUM_ITEMS)
    settings = Settings(data_dir=folder, registry_uri=new_registry(folder))
    with pytest.MonkeyPatch.context() as registries:
        registries.setattr("trainer.sources.all_sources.SOURCES", (*SOURCES, Popular()))
        registries.setattr("trainer.rankers.all_rankers.RANKERS", (*RANKERS, ByContent()))
        registries.setattr("trainer.scoring.candidate_ranking.TWO_TOWER_CANDIDATES", NUM_BY_TOWERS)
        trained = train_and_register(
            load_data_config(str(toml), {}),
            load_train_config(None, OVERRIDES),
            settings,
            RunOptions(promote=False, baselines="popularity"),
        )
        assert trained is not None
        yield trained


def test_the_new_ranker_is_chosen_and_exported(result: RunResult) -> None:
    bundle = read_bundle(Path(result.version.source))
    assert bundle.ranker is not None
    assert bundle.manifest.ranker is not None
    assert [spec.name for spec in bundle.manifest.ranker.inputs] == [names.RANKER_CONTENT_SCORE]
    scores = np.array([0.5, -1.0, 0.0], dtype=np.float32)
    assert OnnxSession(bundle.ranker)({names.RANKER_CONTENT_SCORE: scores}).tolist() == [1.0, -2.0, 0.0]


def test_the_run_has_the_metric_of_every_ranker(result: RunResult) -> None:
    registry_uri = f"sqlite:///{result.prepared.directory.parents[1] / 'mlflow.db'}"
    client = MlflowClient(registry_uri, registry_uri)
    (version,) = client.search_model_versions("")
    run = client.get_run(version.run_id)
    assert run.data.params["ranker"] == "by_content"
    reached = {
        kind: run.data.metrics[f"validation/ranker_{kind}/ndcg_at_10"] for kind in ("blend", "ncf", "by_content")
    }
    assert reached["by_content"] > max(reached["blend"], reached["ncf"])


def test_the_new_source_proposes_items_that_the_two_towers_leave_out(result: RunResult) -> None:
    bundle = read_bundle(Path(result.version.source))
    model = ScoringModel.of_bundle(bundle, OnnxSession(bundle.user_tower))
    assert list(model.sources) == [names.SOURCE_CONTENT_NEIGHBOURS, names.SOURCE_POPULAR]
    users = [user.user_id for user in bundle.held_out_users]
    states = [user.state for user in bundle.held_out_users]
    found = candidates_of(model, users, states)
    popular = bundle.top_items[names.SEGMENT_ALL][:NUM_PROPOSED]
    for state, rows, present in zip(states, found.rows, found.present, strict=True):
        seen = bundle.item_vocabulary.rows_of_keys(state.seen_item_keys)
        assert np.isin(np.setdiff1d(popular, seen), rows[present]).all()
    content = names.SOURCE_CONTENT_NEIGHBOURS
    without = candidates_of(replace(model, sources={content: model.sources[content]}), users, states)
    assert found.present.sum() > without.present.sum()


def test_the_bundle_ranks_as_the_run_measured(result: RunResult) -> None:
    bundle = read_bundle(Path(result.version.source))
    dataset = load_dataset(result.prepared.directory)
    ranks = bundle_ranks(dataset, leave_last_out(dataset, skip=0), bundle, OnnxSession(bundle.user_tower))
    measured = metrics_per_user(ranks)["ndcg@10"].mean()
    assert bundle.manifest.metrics["test/ndcg@10"] == pytest.approx(measured, abs=1e-9)
