"""The gate judges candidates of known quality: real bundles, a real registry, the real serving engine."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from mlflow import MlflowClient

from tandem.contract.names import GATE_AGAINST_TAG, GATE_TAG
from tandem.contract.served import Served, parse_check_result
from tests.inference_server.defects import flipped_byte_in_index, nan_user_vectors
from tests.support.tiny_bundle import nan_ranker
from tests.trainer.release.candidates import NUM_USERS, VECTORS, noisy, register, shuffled, slow_user_tower
from trainer.commands.cli import main
from trainer.config.train_config import GateConfig
from trainer.core.settings import Settings
from trainer.registry.registry import Registry
from trainer.release.held_out_users import sample_of_bundle
from trainer.release.validate import validate

pytestmark = pytest.mark.process


@pytest.fixture
def champion(registry, settings, tmp_path):
    version = register(registry, tmp_path, "champion-1")
    registry.set_alias(settings.model_alias, version.number)
    return version


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, dict, str]:
    """Runs a command; returns the exit status, the JSON of the last line of stdout, and stderr."""
    capsys.readouterr()
    status = main(arguments)
    output = capsys.readouterr()
    return status, json.loads(output.out.splitlines()[-1]) if output.out else {}, output.err


def champion_number(settings: Settings) -> str:
    champion = Registry(settings).champion()
    return champion.number if champion else ""


def test_the_first_version_is_compared_with_popularity_alone(registry, settings, tmp_path, capsys) -> None:
    version = register(registry, tmp_path, "first")
    status, result, errors = run(capsys, "validate", version.number, "--promote")
    assert status == 0, errors
    assert (result["passed"], result["promoted"], result["champion"]) == (True, True, None)
    assert "There is no champion yet" in errors
    assert champion_number(settings) == version.number


def test_a_good_candidate_is_promoted_and_leaves_a_report(champion, registry, settings, tmp_path, capsys) -> None:
    version = register(registry, tmp_path, "good", item_vectors=noisy(VECTORS, 0.02))
    status, result, errors = run(
        capsys, "validate", version.number, "--report", str(tmp_path / "report.html"), "--set", "gate.max_loss=0.2"
    )
    assert status == 0, errors
    assert (result["passed"], result["promoted"], result["champion"]) == (True, False, champion.number)
    assert champion_number(settings) == champion.number
    assert (tmp_path / "report.html").read_text().startswith("<!DOCTYPE html>")

    client = MlflowClient(settings.registry_uri, settings.registry_uri)
    logged = client.get_run(version.run_id).data.metrics
    assert logged["gate/ndcg_at_10"] == pytest.approx(result["metrics"]["gate/ndcg@10"])
    assert logged["gate/champion/ndcg_at_10"] > 0.5
    folder = registry.download_artifacts(version, "gate", tmp_path / "artifacts")
    report = (folder / "gate.md").read_text()
    assert f"Version {version.number} (good): passed by the gate" in report
    assert f"{NUM_USERS} held-out users, the held-out users of bundle good" in report
    assert "| NDCG@10 |" in report
    served = parse_check_result((folder / "served.json").read_text())
    assert isinstance(served, Served)
    assert len(served.candidate.ranks) == NUM_USERS
    assert served.against is not None

    status, result, _ = run(capsys, "promote", version.number)
    assert (status, result) == (0, {"champion": version.number, "previous": champion.number})
    assert champion_number(settings) == version.number


@pytest.mark.parametrize(
    ("spec", "damage", "failed"),
    [
        ({"item_vectors": shuffled(VECTORS)}, None, "ndcg@10, change"),
        ({"item_vectors": noisy(VECTORS, 1.0)}, None, "ndcg@10, worse beyond chance"),
        ({"item_vectors": VECTORS[:150]}, None, "catalogue"),
        ({"ranker": nan_ranker, "content_weight": 0.0}, None, "120 ranker_failed of 120"),
        ({}, nan_user_vectors, "golden_queries: the user tower makes vectors that are NaN"),
        ({}, flipped_byte_in_index, "corrupt: index.faiss has SHA-256"),
        ({}, slow_user_tower, "latency, 99th percentile"),
    ],
    ids=["shuffled", "noisy", "shrunk", "degraded", "nan", "corrupt", "slow"],
)
def test_a_damaged_candidate_is_refused(  # noqa: PLR0917
    spec, damage, failed, champion, registry, settings, tmp_path, capsys
) -> None:
    version = register(registry, tmp_path, "damaged", damage=damage, **spec)
    status, result, errors = run(
        capsys, "validate", version.number, "--promote", "--report", str(tmp_path / "report.md"),
        "--set", "gate.max_latency_ratio=2", "--set", "gate.latency_allowance_ms=2",
    )  # fmt: skip
    assert status == 3, errors
    assert (result["passed"], result["promoted"]) == (False, False)
    assert any(failed in failure for failure in result["failures"]), result["failures"]
    assert champion_number(settings) == champion.number
    report = (tmp_path / "report.md").read_text()
    assert "refused by the gate" in report
    assert "**FAILED**" in report
    tags = registry.find(version.number).tags
    assert (tags[GATE_TAG], tags[GATE_AGAINST_TAG]) == ("refused", champion.number)

    status, _, errors = run(capsys, "promote", version.number)
    assert (status, "the gate refused it" in errors) == (1, True)
    assert champion_number(settings) == champion.number


def test_the_champion_itself_passes_without_a_comparison(champion, settings, capsys) -> None:
    status, result, errors = run(capsys, "validate", "champion", "--promote")
    assert (status, result["passed"], result["champion"]) == (0, True, None)
    assert "The version is the champion already" in errors
    assert champion_number(settings) == champion.number


def test_a_champion_that_cannot_be_opened_does_not_stop_a_candidate(registry, settings, tmp_path, capsys) -> None:
    broken = register(registry, tmp_path, "broken", damage=flipped_byte_in_index)
    registry.set_alias(settings.model_alias, broken.number)
    version = register(registry, tmp_path, "good")
    status, _, errors = run(capsys, "validate", version.number, "--promote")
    assert status == 0, errors
    assert "The champion was not compared with" in errors
    assert champion_number(settings) == version.number


def test_limits_can_be_set_for_one_run(champion, registry, tmp_path, capsys) -> None:
    version = register(registry, tmp_path, "good")
    status, result, _ = run(capsys, "validate", version.number, "--set", "gate.min_coverage_share=3")
    assert status == 3
    assert [failure.split(":")[1].strip() for failure in result["failures"]] == ["coverage"]
    status, result, _ = run(capsys, "validate", version.number)
    assert status == 0, result  # a later verdict replaces the earlier verdict


def test_mistakes_are_named(registry, tmp_path, capsys, monkeypatch) -> None:
    assert "has no version '99'" in run(capsys, "validate", "99")[2]
    version = register(registry, tmp_path, "good")
    status, _, errors = run(capsys, "validate", version.number, "--prepared", str(tmp_path / "nowhere"))
    assert (status, "not a description of prepared data" in errors) == (1, True)
    status, _, errors = run(capsys, "validate", version.number, "--prepared", "x", "--dataset", "y")
    assert (status, "--prepared" in errors) == (2, True)
    monkeypatch.setenv("TANDEM_GRPC_PORT", "nonsense")
    status, _, errors = run(capsys, "validate", version.number)
    assert (status, "TANDEM_GRPC_PORT" in errors) == (1, True)
    assert GATE_TAG not in registry.find(version.number).tags


def test_a_champion_that_may_have_been_trained_on_the_targets_is_noted(champion, registry, tmp_path) -> None:
    version = register(registry, tmp_path, "good")
    sample = sample_of_bundle(tmp_path / "good", max_users=10)
    older = replace(sample, num_interactions=sample.num_interactions - 1)
    (note,) = validate(registry, version, lambda _: older, GateConfig()).decision.notes
    assert "it may have been trained on their held-out items, which favours it" in note
