"""A small report with all sections, and some hostile texts."""

from __future__ import annotations

import numpy as np

from trainer.evaluation.comparison import Comparison, compare
from trainer.evaluation.evaluation import FULL_RANKING, Evaluation
from trainer.report.contents import ExampleUser, ListedItem, MapPoint, RunReport
from trainer.training.progress import EpochReport
from trainer.vectors.faiss_index import IndexPoint

HOSTILE = "</script><script>document.title='owned'</script><img src=x onerror=alert(1)>"


def small_comparison() -> Comparison:
    """40 users with one target each: "as served" ranks it first for half of them and tenth for the other half,
    popularity never lists it."""
    evaluations = [
        Evaluation(
            name=name,
            protocol=FULL_RANKING,
            split="test",
            question="q",
            ranks=np.array(ranks * 20),
            target_offsets=np.arange(41),
            num_known_events=np.array([2, 20] * 20),
            head_targets=np.array([True, False] * 20),
            list_metrics={"novelty@10": np.full(40, 3.0)},
            totals=totals,
        )
        for name, ranks, totals in (
            ("as served", [0, 9], {"coverage@10": 0.75}),
            ("popularity", [70, 70], {"coverage@10": 0.1, "gini@10": 0.9}),
        )
    ]
    return compare(evaluations, baseline="popularity")


def small_report() -> RunReport:
    return RunReport(
        model_version="20260101-000000-000-abcdef12",
        created_at="2026-01-01T00:00:00+00:00",
        facts={"data set": "checkerboard", "items": "24"},
        comparison=small_comparison(),
        epochs=tuple(_epoch(epoch) for epoch in range(1, 5)),
        best_epoch=3,
        index_points=(
            IndexPoint(nprobe=1, recall_at_100=0.8, p50_us=10.0, p99_us=20.0),
            IndexPoint(nprobe=2, recall_at_100=1.0, p50_us=15.0, p99_us=30.0),
        ),
        nprobe=2,
        map_points=(
            MapPoint(x=0.0, y=1.0, title=HOSTILE, category="white"),
            MapPoint(x=1.0, y=0.0, title="A black square", category=HOSTILE),
        ),
        users=(
            ExampleUser(
                user_id=HOSTILE,
                num_history_events=2,
                history=("A white square", HOSTILE),
                targets=("A red square",),
                lists={"as served": (ListedItem(title="A red square", is_target=True),)},
            ),
        ),
        config_toml="[fit]\nseed = 0\n",
        command="python -m trainer train --dataset checkerboard.toml",
    )


def _epoch(epoch: int) -> EpochReport:
    return EpochReport(
        epoch=epoch,
        loss=3.0 / epoch,
        metrics={"recall@10": epoch / 10},
        seconds=1.0,
        interactions_per_second=1_000.0,
        peak_memory_bytes=1 << 30,
    )
