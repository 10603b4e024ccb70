"""A bundle with an NCF ranker is served in the order, and with the scores, that offline evaluation gave it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tandem.contract import names
from tandem.contract.bundle import read_bundle
from tandem.contract.bundle_files import MODEL_CARD
from tandem.ops.onnx_session import OnnxSession
from tandem.v1 import recommendation_pb2 as pb
from tests.support.checkerboard import write_checkerboard
from tests.support.registries import new_registry
from tests.support.serving import serve, valkey
from tests.trainer.bundle_ranks import bundle_ranks
from trainer.config.train_config import load_train_config
from trainer.core.settings import Settings
from trainer.data.config import load_data_config
from trainer.dataset.dataset import leave_last_out, load_dataset
from trainer.evaluation.metrics import mean_metrics, metrics_per_user
from trainer.experiments.test_set_metrics import SERVED
from trainer.pipeline.train_run import RunOptions, RunResult, train_and_register
from trainer.registry.registry import EVALUATIONS
from trainer.results.saved_evaluations import evaluation_directories, load_evaluation
from trainer.scoring.candidate_ranking import RankedModel
from trainer.scoring.scoring_model import ScoringModel

pytestmark = pytest.mark.slow

NUM_ITEMS, NUM_USERS, NUM_EVENTS = 240, 60, 12
OVERRIDES = {
    "towers.embedding_dim": "16",
    "towers.num_layers": "1",
    "towers.user_ids": "true",
    "fit.max_epochs": "4",
    "ranker.kind": "ncf",
    "ncf.max_epochs": "3",
    "ncf.learning_rate": "0.01",
    "ncf.max_examples": "2000",
}


@pytest.fixture(scope="module")
def result(tmp_path_factory) -> RunResult:
    folder = tmp_path_factory.mktemp("ncf")
    toml = write_checkerboard(folder, num_users=NUM_USERS, num_items=NUM_ITEMS)
    # Users with a short history: content then proposes items that are not among the towers' candidates.
    header, *lines = (folder / "interactions.csv").read_text().splitlines()
    kept = [line for number, line in enumerate(lines) if number % (NUM_ITEMS // 2) < NUM_EVENTS]
    (folder / "interactions.csv").write_text("\n".join([header, *kept]) + "\n")
    # Every item has a text of its own: with equal vectors the choice of candidates would be arbitrary.
    items = (folder / "items.jsonl").read_text().splitlines()
    named = [line.replace(" square", f" square, number {number}") for number, line in enumerate(items)]
    (folder / "items.jsonl").write_text("\n".join(named) + "\n")
    data = load_data_config(str(toml), {})
    settings = Settings(data_dir=folder, registry_uri=new_registry(folder))
    return train_and_register(data, load_train_config(None, OVERRIDES), settings, RunOptions())


def test_the_manifest_holds_the_metrics_of_offline_ranking(result) -> None:
    bundle = read_bundle(Path(result.version.source))
    assert [spec.name for spec in bundle.manifest.ranker.inputs] == [
        names.RANKER_USER_VECTOR,
        names.RANKER_ITEM_VECTOR,
        names.RANKER_ITEM_INDEX,
        names.RANKER_COLLABORATIVE_SCORE,
        names.RANKER_CONTENT_SCORE,
        names.RANKER_USER_INDEX,
    ]
    assert bundle.manifest.onnx_max_abs_difference < 1e-4
    dataset = load_dataset(result.prepared.directory)
    ranks = bundle_ranks(dataset, leave_last_out(dataset, skip=0), bundle, OnnxSession(bundle.user_tower))
    for name, mean in mean_metrics(metrics_per_user(ranks)).items():
        assert bundle.manifest.metrics[f"test/{name}"] == pytest.approx(mean, abs=1e-9)


def test_the_run_is_measured_in_the_order_of_its_ranker(result) -> None:
    bundle = read_bundle(Path(result.version.source))
    (directory, *_) = evaluation_directories(Path(result.version.source).parent / EVALUATIONS)
    measured = load_evaluation(directory)
    assert measured.name == SERVED
    for name in ("recall@10", "ndcg@10", "map@10"):
        assert measured.means()[name] == pytest.approx(bundle.manifest.metrics[f"test/{name}"], abs=1e-9)
    assert "ONNX ranker" in (bundle.directory / MODEL_CARD.name).read_text()


async def test_served_scores_are_the_offline_scores(result, tmp_path) -> None:
    bundle = read_bundle(Path(result.version.source))
    model = ScoringModel.of_bundle(bundle, OnnxSession(bundle.user_tower))
    ranked = RankedModel(model=model, pair_scores=OnnxSession(bundle.ranker))
    # A user that training never saw is asked for, too, with the history of a known user.
    users = [*bundle.held_out_users[:20]]
    asked = {**{user.user_id: user.state for user in users}, "a-stranger": users[0].state}
    expected = ranked.scores_of(list(asked), list(asked.values()))
    assert (np.isfinite(expected).sum(axis=1) > 100).any(), "content proposes items beyond the towers' candidates"
    async with valkey(tmp_path / "valkey") as store:
        for user_id, state in asked.items():
            await store.put(user_id, state)
        async with serve(tmp_path / "server", bundle_path=bundle.directory, store_url=store.url) as server:
            for scores, user_id in zip(expected, asked, strict=True):
                response = await server.recommend(user_id=user_id, num_items=100, explain=True)
                assert response.source == pb.RECOMMENDATION_SOURCE_RANKED
                assert not response.degraded_reasons
                rows = bundle.item_vocabulary.rows([item.item_id for item in response.items])
                served = [item.reason.score_parts["ranker"] for item in response.items]
                assert served == pytest.approx(scores[rows], abs=1e-4)
                best = np.sort(scores)[::-1][: len(served)]
                assert served == pytest.approx(best, abs=1e-4)
