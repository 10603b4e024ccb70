"""A small report with everything in it, some of it hostile."""

from __future__ import annotations

from trainer.evaluation.metrics import Interval
from trainer.export.index import IndexPoint
from trainer.report.contents import Difference, ExampleUser, ListedItem, MapPoint, Measured, RunReport, Segment
from trainer.training.fit import EpochReport

HOSTILE = "</script><script>document.title='owned'</script><img src=x onerror=alert(1)>"


def small_report() -> RunReport:
    segments = {
        name: Segment(num_users=30, metrics={"ndcg@10": Interval(0.1, 0.05, 0.15)})
        for name in ("users: cold", "users: warm")
    }
    return RunReport(
        model_version="20260101-000000-000-abcdef12",
        created_at="2026-01-01T00:00:00+00:00",
        protocol="Leave-last-out, full ranking.",
        num_test_users=60,
        facts={"data set": "checkerboard", "items": "24"},
        measured=(
            Measured(
                name="as served",
                metrics={"ndcg@10": Interval(0.5, 0.4, 0.6), "recall@10": Interval(0.7, 0.6, 0.8)},
                segments=segments,
                whole_lists={"coverage@10": 0.75},
            ),
            Measured(name="popularity", metrics={"ndcg@10": Interval(0.1, 0.05, 0.15)}, segments=segments),
        ),
        differences=(
            Difference(baseline="popularity", metric="ndcg@10", interval=Interval(0.4, 0.3, 0.5), p_value=0.001),
        ),
        epochs=tuple(EpochReport(epoch, 3.0 / epoch, {"recall@10": epoch / 10}) for epoch in range(1, 5)),
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
