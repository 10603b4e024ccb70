"""A planted shift is found in each of the four reports, and users of the same kind are not called drift."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tandem.contract.bundle import Bundle
from tests.trainer.drift.shop import Customers, tasteful_bundle, window
from trainer.core.settings import Settings
from trainer.drift.column_report import ColumnReport
from trainer.drift.windows import draw_sample

pytestmark = pytest.mark.process  # joblib, below Evidently, starts lscpu to count the cores
LATE = Customers(prefix="late")


@pytest.fixture(scope="module")
def champion(tmp_path_factory) -> Bundle:
    return tasteful_bundle(tmp_path_factory.mktemp("drift") / "bundle")


def reports_of(recent: Customers, champion: Bundle, pages: Path, *, seed: int = 2) -> dict[str, ColumnReport]:
    from trainer.drift.run import compare_samples  # imports Evidently, which takes seconds

    settings = Settings()
    samples = [
        draw_sample(drawn_from, max_users=1000, seed=0)
        for drawn_from in (
            window(Customers(), first_day=0, num_days=28, seed=1),
            window(recent, first_day=28, num_days=7, seed=seed),
        )
    ]
    reports = compare_samples(*samples, champion, settings, pages)
    assert list(reports) == ["inputs", "scores", "recommendations", "embeddings"]
    assert all((pages / f"{name}.html").stat().st_size > 10_000 for name in reports)
    return reports


def drifted(recent: Customers, champion: Bundle, pages: Path) -> dict[str, ColumnReport]:
    """The reports that say drift."""
    reports = reports_of(recent, champion, pages)
    return {name: report for name, report in reports.items() if report.drifted_share >= Settings().drift_share}


@pytest.mark.parametrize("seed", range(2, 5))
def test_new_users_of_the_same_kind_are_not_drift(champion, tmp_path, seed) -> None:
    reports = reports_of(LATE, champion, tmp_path, seed=seed)
    assert [report.drifted for report in reports.values()] == [(), (), (), ()]


def test_few_users_of_the_same_kind_are_not_drift(champion, tmp_path) -> None:
    assert drifted(replace(LATE, num_users=30), champion, tmp_path) == {}


def test_other_event_types_and_hours_drift_in_the_inputs_alone(champion, tmp_path) -> None:
    reports = drifted(replace(LATE, purchases=0.7, first_hour=12), champion, tmp_path)
    assert list(reports) == ["inputs"]
    assert set(reports["inputs"].drifted) == {"event_type", "hour"}


def test_users_without_a_steady_taste_drift_in_the_scores(champion, tmp_path) -> None:
    reports = drifted(replace(LATE, constancy=0.1), champion, tmp_path)
    assert "best score" in reports["scores"].drifted


def test_another_mix_of_tastes_drifts_in_the_recommendations_and_the_vectors(champion, tmp_path) -> None:
    reports = drifted(replace(LATE, tastes=(0.7, 0.1, 0.1, 0.1)), champion, tmp_path)
    assert "category" in reports["recommendations"].drifted
    assert "recommended item" in reports["recommendations"].drifted
    assert reports["embeddings"].drifted == ("user vectors",)
