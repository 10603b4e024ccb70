"""A whole training run on data with a known answer, against a real registry."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from mlflow import MlflowClient
from structlog.testing import capture_logs

from tandem.contract import names
from tandem.contract.bundle import read_bundle
from tandem.contract.features import encode_users
from tandem.contract.ranking import PROFILE_DECAY_EVENTS
from tandem.ops.file_lock import file_lock
from tandem.ops.onnx_session import OnnxSession
from tests.support.checkerboard import write_checkerboard
from tests.support.registries import new_registry
from tests.support.waiting import wait_until
from tests.trainer.bundle_ranks import bundle_ranks
from trainer.commands.cli import main
from trainer.config.train_config import TrainConfig, load_train_config
from trainer.core.settings import Settings
from trainer.data.config import load_data_config
from trainer.dataset.dataset import leave_last_out, load_dataset
from trainer.evaluation.metrics import mean_metrics, metrics_per_user
from trainer.experiments.seeds import evaluate_seeds
from trainer.pipeline.train_run import RunOptions, RunResult, train_and_register, training_fingerprint
from trainer.registry.registry import Registry

pytestmark = pytest.mark.slow

SMALL = {"towers.embedding_dim": "16", "towers.num_layers": "1", "fit.max_epochs": "60", "fit.batch_size": "16"}


@pytest.fixture(scope="module")
def settings(tmp_path_factory) -> Settings:
    folder = tmp_path_factory.mktemp("trainer")
    return Settings(data_dir=folder, registry_uri=new_registry(folder))


@pytest.fixture(scope="module")
def data_config(tmp_path_factory):
    return load_data_config(str(write_checkerboard(tmp_path_factory.mktemp("checkerboard"))), {})


@pytest.fixture(scope="module")
def first(settings, data_config) -> RunResult:
    return train_and_register(data_config, load_train_config(None, SMALL), settings, RunOptions(if_needed=True))


def _client(settings: Settings) -> MlflowClient:
    return MlflowClient(settings.registry_uri, settings.registry_uri)


def _recent_mean(vectors: np.ndarray) -> np.ndarray:
    """The content profile of the newest items, (events, dim), oldest first."""
    decay = np.exp(-np.arange(len(vectors))[::-1] / PROFILE_DECAY_EVENTS)
    return decay @ vectors / decay.sum()


def test_a_second_run_of_the_same_training_waits_for_the_first(first, settings, data_config) -> None:
    config = load_train_config(None, SMALL)
    lock = settings.data_dir / "checkpoints" / f"{training_fingerprint(first.prepared, config)}.lock"
    with ThreadPoolExecutor(1) as threads, capture_logs() as logs:
        with file_lock(lock):
            second = threads.submit(train_and_register, data_config, config, settings, RunOptions(if_needed=True))
            wait_until(
                lambda: any(entry["event"] == "waiting_for_another_process" for entry in logs), "the second run waits"
            )
            assert not second.done()
        result = second.result()
    assert result is not None
    assert (result.trained, result.version) == (False, first.version)
    assert list((settings.data_dir / "checkpoints").iterdir()) == []


def test_every_users_withheld_item_comes_first(first, settings, tmp_path) -> None:
    registry = Registry(settings)
    champion = registry.champion()
    bundle = read_bundle(registry.download(champion, tmp_path))
    dataset = load_dataset(first.prepared.directory)
    ranks = bundle_ranks(dataset, leave_last_out(dataset, skip=0), bundle, OnnxSession(bundle.user_tower))
    assert (ranks == 0).mean() >= 0.95
    assert bundle.manifest.metrics["test/recall@10"] == 1.0
    served = mean_metrics(metrics_per_user(ranks))
    assert {f"test/{name}": mean for name, mean in served.items()}.items() <= bundle.manifest.metrics.items()
    assert bundle.manifest.index.recall_at_100 >= 0.95
    assert bundle.manifest.onnx_max_abs_difference < 1e-4
    assert len(bundle.held_out_users) == 60


def test_the_bundle_holds_the_blend_calibrated_on_what_is_served(first, settings, tmp_path) -> None:
    registry = Registry(settings)
    bundle = read_bundle(registry.download(registry.champion(), tmp_path))
    vectors = bundle.content.vectors.astype(np.float32)
    assert len(vectors) == 24
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(1.0, abs=1e-2)
    colours = [bundle.items.item(row).categories for row in range(24)]
    assert bundle.content.neighbours.shape == (24, 20)
    for row, neighbours in enumerate(bundle.content.neighbours):
        assert row not in neighbours
        assert all(colours[near] == colours[row] for near in neighbours[:11])
    states = [user.state for user in bundle.held_out_users]
    inputs = encode_users(
        states,
        schema=bundle.manifest.feature_schema,
        item_vocabulary=bundle.item_vocabulary,
        item_vectors=bundle.item_vectors,
    )
    collaborative = OnnxSession(bundle.user_tower)(inputs) @ bundle.item_vectors.T
    read = [bundle.item_vocabulary.rows_of_keys(state.event_item_keys)[-10:] for state in states]
    content = np.stack([_recent_mean(vectors[rows]) for rows in read]) @ vectors.T
    blend = bundle.manifest.blend
    for measured, scores in ((blend.collaborative, collaborative), (blend.content, content)):
        assert measured.mean == pytest.approx(scores.mean(), abs=1e-4)
        assert measured.std == pytest.approx(scores.std(), rel=1e-3)
    assert blend.content_weight in TrainConfig().ranker.content_weights
    assert blend.content_weight == first.blend_weights["content"]
    assert {
        "test/recall@10",
        "test/two_tower/recall@10",
        "validation/two_tower/ndcg@10",
    } <= bundle.manifest.metrics.keys()


def test_the_run_is_recorded_and_promoted(first, settings) -> None:
    assert first.trained
    assert first.decision.passed
    client = _client(settings)
    version = client.get_model_version_by_alias(settings.model_name, "champion")
    assert str(version.version) == first.version.number
    run = client.get_run(version.run_id)
    assert run.data.params["towers.embedding_dim"] == "16"
    assert run.data.params["data"] == "checkerboard"
    assert float(run.data.params["blend.content_weight"]) == first.blend_weights["content"]
    assert float(run.data.params["blend.content.std"]) > 0
    assert "validation/content_weight_0.3/ndcg_at_10" in run.data.metrics
    history = client.get_metric_history(version.run_id, "epoch/recall_at_10")
    assert len({point.step for point in history}) == len(client.get_metric_history(version.run_id, "epoch/loss")) > 1
    assert {artifact.path for artifact in client.list_artifacts(version.run_id)} == {
        "bundle",
        "cleaning_report.txt",
        "evaluations",
        "gate",
        "report.html",
        "test_metrics.md",
        "weights",
    }


def test_a_second_run_of_the_same_data_is_not_needed(first, settings, data_config) -> None:
    again = train_and_register(data_config, load_train_config(None, SMALL), settings, RunOptions(if_needed=True))
    assert not again.trained
    assert again.blend_weights["content"] is None
    assert again.version == first.version


def test_a_worse_model_is_registered_but_not_promoted(first, settings, data_config) -> None:
    # Content alone finds the answer here, and so does the item-item source: the worse model has neither.
    worse = {
        "fit.max_epochs": "1",
        "fit.learning_rate": "1e-9",
        "ranker.content_weights": "0",
        "ranker.item_item_weights": "0",
        "ranker.sequential_weights": "0",
    }
    untrained = load_train_config(None, {**SMALL, **worse})
    result = train_and_register(data_config, untrained, settings, RunOptions(if_needed=True))
    assert result.trained
    assert not result.decision.passed
    assert "ndcg@10, change" in [check.name for check in result.decision.failures]
    client = _client(settings)
    assert str(client.get_model_version_by_alias(settings.model_name, "champion").version) == first.version.number
    assert {str(found.version) for found in client.search_model_versions(f"name='{settings.model_name}'")} == {"1", "2"}


def test_a_version_is_validated_on_prepared_data(first, settings, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setenv("TANDEM_DATA_DIR", str(settings.data_dir))
    monkeypatch.setenv("TANDEM_REGISTRY_URI", settings.registry_uri)
    capsys.readouterr()
    assert main(["validate", first.version.number, "--prepared", str(first.prepared.directory)]) == 0
    output = capsys.readouterr()
    result = json.loads(output.out.splitlines()[-1])
    assert "The version is the champion already" in output.err
    bundle = read_bundle(Registry(settings).download(first.version, tmp_path))
    dataset = load_dataset(first.prepared.directory)
    ranks = bundle_ranks(dataset, leave_last_out(dataset, skip=0), bundle, OnnxSession(bundle.user_tower))
    assert result["metrics"]["gate/ndcg@10"] == pytest.approx(metrics_per_user(ranks)["ndcg@10"].mean(), abs=1e-6)
    report = Path(result["report"]).read_text()
    assert "60 held-out users, last interactions in checkerboard, answered as it is served." in report


def test_a_catalogue_without_text_or_categories_has_no_blend(tmp_path) -> None:
    toml = write_checkerboard(tmp_path).read_text().split("[items]")[0]
    bare = tmp_path / "bare.toml"
    bare.write_text(toml)
    settings = Settings(data_dir=tmp_path, registry_uri=new_registry(tmp_path))
    config = load_train_config(
        None, {**SMALL, "fit.max_epochs": "2", "ranker.item_item_weights": "0", "ranker.sequential_weights": "0"}
    )
    result = train_and_register(load_data_config(str(bare), {}), config, settings, RunOptions())
    bundle = read_bundle(Path(result.version.source))
    assert result.blend_weights["content"] is None
    assert bundle.manifest.blend is None
    assert bundle.content is None
    assert bundle.manifest.metrics["test/ndcg@10"] == bundle.manifest.metrics["test/two_tower/ndcg@10"]
    (run_id,) = [version.run_id for version in _client(settings).search_model_versions("")]
    assert _client(settings).get_run(run_id).data.params["blend"] == "none"


def test_a_resumed_run_finds_the_checkpoints_of_the_run_before(first) -> None:
    config, resumed = load_train_config(None, SMALL), load_train_config(None, {**SMALL, "fit.resume": "true"})
    other = load_train_config(None, {**SMALL, "fit.seed": "1"})
    assert training_fingerprint(first.prepared, resumed) == training_fingerprint(first.prepared, config)
    assert training_fingerprint(first.prepared, other) != training_fingerprint(first.prepared, config)


def test_equal_seeds_give_equal_numbers(settings, data_config) -> None:
    config = load_train_config(None, {**SMALL, "fit.max_epochs": "3"})
    runs = [evaluate_seeds(data_config, config, settings, num_seeds=2) for _ in range(2)]
    assert runs[0].metrics == runs[1].metrics
    assert [run.blend_weights for run in runs[0].runs] == [run.blend_weights for run in runs[1].runs]
    assert len(runs[0].metrics["recall@10"]) == 2
    text = runs[0].to_text()
    assert "Mean and standard deviation over 2 seeds of the training (0, 1)." in text
    assert "| 1+99: ndcg@10 |" in text
    assert "| Popularity |" in text
    read = json.loads(runs[0].to_json())
    assert set(read["questions"]) == {"full ranking", "1+99"}
    assert len(read["questions"]["1+99"]["seeds"]["as served"]["hr@10"]["values"]) == 2


@pytest.mark.parametrize("loss", ["full", "sampled"])
@pytest.mark.parametrize("similarity", ["dot", "cosine"])
def test_every_loss_and_similarity_learns(loss, similarity, settings, data_config) -> None:
    choice = {"fit.loss": loss, "towers.similarity": similarity, "towers.user_ids": "true", "fit.num_negatives": "16"}
    result = evaluate_seeds(data_config, load_train_config(None, {**SMALL, **choice}), settings, num_seeds=1)
    assert result.metrics["recall@10"][0] >= 0.95


def test_a_mean_tower_with_history_features_is_served_as_it_was_measured(data_config, tmp_path) -> None:
    settings = Settings(data_dir=tmp_path, registry_uri=new_registry(tmp_path))
    choice = {"towers.user_tower": "mean", "towers.history_features": "true", "text.encoder": "none"}
    result = train_and_register(data_config, load_train_config(None, {**SMALL, **choice}), settings, RunOptions())
    assert result is not None
    bundle = read_bundle(Registry(settings).download(result.version, tmp_path / "bundle"))
    features = [feature.name for feature in bundle.manifest.feature_schema.user_features]
    assert features == [names.NUM_EVENTS, names.DAYS_BEFORE_NEWEST]
    dataset = load_dataset(result.prepared.directory)
    ranks = bundle_ranks(dataset, leave_last_out(dataset, skip=0), bundle, OnnxSession(bundle.user_tower))
    served = mean_metrics(metrics_per_user(ranks))
    assert served["recall@10"] >= 0.95
    assert {f"test/{name}": mean for name, mean in served.items()}.items() <= bundle.manifest.metrics.items()


def test_command_line_prints_what_the_next_program_needs(first, settings, data_config, tmp_path) -> None:
    config = write_checkerboard(tmp_path)
    environment = {
        **os.environ,
        "TANDEM_DATA_DIR": str(tmp_path / "data"),
        "TANDEM_REGISTRY_URI": f"sqlite:///{tmp_path / 'mlflow.db'}",
    }
    settings_of_run = [argument for key, value in SMALL.items() for argument in ("--set", f"{key}={value}")]
    command = [sys.executable, "-m", "trainer", "train", "--dataset", str(config), *settings_of_run]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=300)
    answer = json.loads(done.stdout.splitlines()[-1])
    assert answer["trained"]
    assert answer["promoted"]
    assert answer["content_weight"] in TrainConfig().ranker.content_weights
    assert answer["sample_user_id"].startswith("user-")
    assert (Path(answer["prepared"]) / "interactions.parquet").is_file()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "--set", "fit.max_epochs=zero"], "fit.max_epochs"),
        (["train", "--set", "nonsense"], "KEY=VALUE"),
        (["prepare", "--dataset", "no-such-set"], "no-such-set"),
    ],
)
def test_wrong_arguments_are_named_without_a_traceback(arguments, message) -> None:
    command = [sys.executable, "-m", "trainer", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_without_training_towers_the_closed_forms_recommend(tmp_path) -> None:
    toml = write_checkerboard(tmp_path)
    settings = Settings(data_dir=tmp_path, registry_uri=f"sqlite:///{tmp_path / 'mlflow.db'}")
    config = load_train_config(None, {**SMALL, "fit.train_towers": "false", "ranker.content_weights": "0"})
    result = train_and_register(load_data_config(str(toml), {}), config, settings, RunOptions(baselines="popularity"))
    assert result is not None
    assert result.promoted
    metrics = read_bundle(Path(result.version.source)).manifest.metrics
    assert metrics["test/ndcg@10"] > 2 * metrics["test/popularity/ndcg@10"]
    assert metrics["test/ndcg@10"] > metrics["test/two_tower/ndcg@10"]
    best_alone = max(metrics.get(f"validation/{key}/ndcg@10", 0.0) for key in ("item_item", "sequential"))
    assert best_alone > metrics["validation/two_tower/ndcg@10"]
    card = (Path(result.version.source) / "MODEL_CARD.md").read_text()
    assert "Alone on validation, NDCG@10: " in card
