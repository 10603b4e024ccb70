"""The training loop: it learns, stops, and resumes."""

from __future__ import annotations

import itertools

import pytest
import torch

from tests.trainer.training.fitting import fit_ring, ring_config
from trainer.core.errors import ConfigError
from trainer.models.two_tower import TwoTowerModel
from trainer.training.fit import learning_rate_factor


class Stopped(Exception):
    pass


def _stop_after(epoch: int):
    def on_epoch(report) -> None:
        if report.epoch == epoch:
            raise Stopped

    return on_epoch


def _equal(left: TwoTowerModel, right: TwoTowerModel) -> bool:
    pairs = zip(left.state_dict().values(), right.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize(
    ("loss", "similarity"),
    [("full", "cosine"), ("sampled", "cosine"), ("in-batch", "cosine"), ("mixed", "cosine"), ("gbce", "dot")],
)
def test_every_loss_learns_the_ring(loss, similarity) -> None:
    choice = {"fit__loss": loss, "towers__similarity": similarity, "towers__dropout": "0.1"}
    config = ring_config(**choice, fit__num_negatives="20", fit__learning_rate="1e-2")
    result = fit_ring(config, num_epochs=12)
    assert max(report.metrics["recall@10"] for report in result.epochs) > 0.9


def test_the_mean_tower_and_history_features_are_trained() -> None:
    config = ring_config(towers__user_tower="mean", towers__history_features="true", fit__learning_rate="1e-2")
    result = fit_ring(config, num_epochs=12)
    assert max(report.metrics["recall@10"] for report in result.epochs) > 0.8
    tables = result.model.user_tower.feature_embeddings
    assert all(table.weight.abs().sum() > 0 for table in tables[-1:])


@pytest.mark.parametrize("validated", [True, False])
def test_a_resumed_run_equals_an_uninterrupted_run(tmp_path, validated) -> None:
    choice = {"fit__loss": "sampled", "fit__num_negatives": "8", "fit__schedule": "cosine", "fit__max_epochs": "5"}
    whole = fit_ring(ring_config(**choice), num_epochs=5, validated=validated)
    path = tmp_path / "checkpoints" / "selection.pt"
    with pytest.raises(Stopped):
        fit_ring(
            ring_config(**choice), num_epochs=5, validated=validated, on_epoch=_stop_after(2), checkpoint_path=path
        )
    seen = []
    config = ring_config(**choice, fit__resume="true")
    resumed = fit_ring(
        config,
        num_epochs=5,
        validated=validated,
        on_epoch=lambda report: seen.append(report.epoch),
        checkpoint_path=path,
    )
    assert seen == [1, 2, 3, 4, 5]
    assert [report.loss for report in resumed.epochs] == [report.loss for report in whole.epochs]
    assert [report.metrics for report in resumed.epochs] == [report.metrics for report in whole.epochs]
    assert resumed.best_epoch == whole.best_epoch
    assert _equal(resumed.model, whole.model)
    again = fit_ring(config, num_epochs=5, validated=validated, checkpoint_path=path)
    assert _equal(again.model, whole.model)
    assert [file.name for file in path.parent.iterdir()] == ["selection.pt"]


def test_without_resume_a_checkpoint_is_overwritten(tmp_path) -> None:
    path = tmp_path / "selection.pt"
    path.write_bytes(b"not a checkpoint")
    with pytest.raises(ConfigError, match=r"fit\.resume.*selection\.pt"):
        fit_ring(ring_config(fit__resume="true"), num_epochs=1, checkpoint_path=path)
    fit_ring(ring_config(), num_epochs=1, checkpoint_path=path)
    assert len(fit_ring(ring_config(fit__resume="true"), num_epochs=2, checkpoint_path=path).epochs) == 2


def test_a_time_limit_keeps_the_best_epoch_so_far() -> None:
    result = fit_ring(ring_config(fit__max_minutes="1e-9"), num_epochs=5)
    assert (len(result.epochs), result.best_epoch) == (1, 1)


def test_bf16_trains_float32_weights_to_nearly_the_same_loss() -> None:
    full = fit_ring(ring_config(fit__precision="float32"), num_epochs=2, validated=False)
    mixed = fit_ring(ring_config(fit__precision="bf16"), num_epochs=2, validated=False)
    assert mixed.epochs[-1].loss == pytest.approx(full.epochs[-1].loss, rel=0.02)
    assert mixed.epochs[-1].loss != full.epochs[-1].loss
    assert {weight.dtype for weight in mixed.model.state_dict().values()} == {torch.float32}


def test_an_epoch_reports_speed_and_memory() -> None:
    result = fit_ring(ring_config(), num_epochs=2)
    assert all(report.seconds > 0 and report.interactions_per_second > 0 for report in result.epochs)
    assert result.peak_memory_bytes > 50 * 2**20  # PyTorch alone is larger
    slowest, fastest = sorted(report.interactions_per_second for report in result.epochs)
    assert slowest <= result.interactions_per_second <= fastest


def test_the_learning_rate_rises_and_then_stays_or_falls_to_zero() -> None:
    def factors(schedule: str) -> list[float]:
        return [learning_rate_factor(n, schedule=schedule, warmup_steps=4, total_steps=24) for n in range(30)]

    assert factors("constant")[:5] == [0.25, 0.5, 0.75, 1.0, 1.0]
    assert set(factors("constant")[4:]) == {1.0}
    cosine = factors("cosine")
    assert cosine[:5] == [0.25, 0.5, 0.75, 1.0, 1.0]
    assert cosine[14] == pytest.approx(0.5)
    assert cosine[24:] == [0.0] * 6
    assert all(later < earlier for earlier, later in itertools.pairwise(cosine[4:24]))
