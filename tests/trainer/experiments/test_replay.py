"""A replay cuts the past into periods, and asks its models only for events that they have not learned."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.trainer.small_dataset import dataset_of
from tests.trainer.training.fitting import ring_config, ring_data
from trainer.config.train_config import TrainConfig
from trainer.core.errors import DataError
from trainer.core.settings import Settings
from trainer.dataset.dataset import Dataset
from trainer.experiments.replay import FULL, INCREMENTAL, NEVER, Step, period_split, replay
from trainer.experiments.replay_report import ReplayReport, ratio_of_means

CONFIG = ring_config(fit__max_epochs="3", fit__warmup_epochs="1", warm_start__max_epochs="1", text__encoder="none")


def _walk(config: TrainConfig) -> Dataset:
    """All users walk along a ring of items at the same time, one step every second."""
    ring = ring_data(config).dataset
    step = np.arange(len(ring.item_rows)) - np.repeat(ring.offsets[:-1], ring.lengths)
    return replace(ring, event_times=1_000_000 * (1 + step.astype(np.int64)))


@pytest.fixture(scope="module")
def steps(tmp_path_factory) -> tuple[Step, ...]:
    folder = tmp_path_factory.mktemp("replay")
    settings = Settings(data_dir=folder, registry_uri=f"sqlite:///{folder / 'mlflow.db'}")
    return replay(_walk(CONFIG), CONFIG, settings, num_periods=2, share=0.5)


def test_the_second_half_of_a_period_is_asked_for() -> None:
    dataset = dataset_of([[0, 1, 2, 3, 4, 5], [6, 7], [8], [9, 0]], num_items=10)
    times = np.array([1, 2, 3, 4, 5, 9, 1, 4, 4, 3, 5]) * 1_000_000
    split = period_split(replace(dataset, event_times=times), 3_000_000, 6_000_000, name="test")
    # User 2 has no earlier event and a single event in the period; user 3's first half of the period is known.
    assert split.users.tolist() == [0, 1, 3]
    assert [rows.tolist() for rows in np.split(split.target_rows, split.target_offsets[1:-1])] == [[3, 4], [7], [0]]
    assert split.known.lengths.tolist() == [3, 1, 0, 1]
    assert split.known.item_rows.tolist() == [0, 1, 2, 6, 9]


def test_every_update_learns_from_one_period_and_is_asked_for_the_next(steps) -> None:
    dataset = _walk(CONFIG)
    assert [step.number for step in steps] == [1, 2]
    assert all(step.num_new > 0 for step in steps)
    assert steps[1].num_known == steps[0].num_known + steps[1].num_new
    assert steps[1].num_known == (dataset.event_times < steps[1].ends).sum()
    for step in steps:
        assert set(step.evaluations) == {NEVER, INCREMENTAL, FULL}
        assert len({evaluation.question for evaluation in step.evaluations.values()}) == 1
        assert step.evaluations[FULL].num_users > 0
        assert all(seconds > 0 for seconds in (*step.seconds.values(), *step.cpu_seconds.values()))
        assert step.epochs[INCREMENTAL] <= 1


def test_the_report_says_both_qualities_and_both_times(steps) -> None:
    report = ReplayReport(data="ring", command="python -m trainer replay", steps=steps)
    raw = json.loads(report.to_json())
    assert raw["num_asked"] == sum(step.evaluations[FULL].num_users for step in steps)
    assert raw["quality_ratio"][INCREMENTAL]["ndcg@10"]["mean"] == report.quality_ratio(INCREMENTAL).mean
    spent = [sum(step.cpu_seconds[model] for step in steps) for model in (INCREMENTAL, FULL)]
    assert raw["time_ratio"] == pytest.approx(spent[0] / spent[1])
    text = report.to_text()
    assert "| ndcg@10, never updated | ndcg@10, incremental | ndcg@10, full training | ratio |" in text
    assert "processor seconds, incremental" in text


def test_a_ratio_of_means_is_paired() -> None:
    reference = np.array([0.0, 1.0, 0.5, 0.25, 0.0, 1.0])
    ratio = ratio_of_means(0.9 * reference, reference)
    assert (ratio.mean, ratio.low, ratio.high) == pytest.approx((0.9, 0.9, 0.9))
    with pytest.raises(ValueError, match="0 for every user"):
        ratio_of_means(reference, np.zeros(6))


def test_data_that_cannot_be_replayed_are_refused(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path, registry_uri=f"sqlite:///{tmp_path / 'mlflow.db'}")
    dataset = _walk(CONFIG)
    untimed = replace(dataset, event_times=np.zeros_like(dataset.event_times))
    with pytest.raises(DataError, match="a replay needs times"):
        replay(untimed, CONFIG, settings, num_periods=2, share=0.5)
    with pytest.raises(DataError, match="too few different times"):
        replay(dataset, CONFIG, settings, num_periods=500, share=0.5)
