"""The plots of the report."""

from __future__ import annotations

import json
from typing import Any

import pytest

from feature_sync.attribution.plots import ctr_by_arm_and_day, rates_by_day
from feature_sync.attribution.summaries import Line


def line(day: str, *, arm: str = "") -> Line:
    counts = {"ctr": 0.1, "add_to_cart_rate": 0.01, "conversion": 0.001}
    experiment = "exp" if arm else ""
    return Line(
        dimension="day",
        value=f"{experiment}: {arm}, {day}" if arm else day,
        experiment=experiment,
        arm=arm,
        counts=counts,
    )


def axis(figure: str) -> dict[str, Any]:
    return dict(json.loads(figure)["layout"]["xaxis"])


@pytest.mark.parametrize("num_days", [1, 3, 10])
def test_each_of_a_few_days_has_its_tick_and_nothing_between_them_has(num_days: int) -> None:
    days = [f"2026-03-{number + 1:02}" for number in range(num_days)]
    of_all = axis(rates_by_day([line(day) for day in days]))
    of_arms = axis(ctr_by_arm_and_day([line(day, arm=name) for name in "ab" for day in days]))
    assert of_all["tickvals"] == of_arms["tickvals"] == days
    assert of_all["tickformat"] == of_arms["tickformat"] == "%Y-%m-%d"


def test_of_many_days_plotly_chooses_the_ticks() -> None:
    assert "tickvals" not in axis(rates_by_day([line(f"2026-03-{number + 1:02}") for number in range(28)]))
