"""The required number of users, against tea-tasting and by simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest
import tea_tasting as tt
from tea_tasting.aggr import Aggregates

from feature_sync.statistics.sample_size import required_users
from tandem.contract.anytime import best_rho, boundary, effective_observations


@pytest.mark.parametrize("ratio", [1.0, 0.25, 1 / 19])
@pytest.mark.parametrize(("alpha", "power"), [(0.05, 0.8), (0.01, 0.9)])
def test_one_look_needs_what_tea_tasting_says(alpha: float, power: float, ratio: float) -> None:
    metric = tt.Mean("value", alpha=alpha, power=power, ratio=ratio, effect_size=0.3, use_t=False, equal_var=False)
    control = Aggregates(count_=1_000, mean_={"value": 10.0}, var_={"value": 4.0})
    expected = metric.solve_power_from_aggregates(control, "n_obs")[0].n_obs
    found = required_users(4.0, 0.3, alpha=alpha, power=power, arm_to_control=ratio, rho=100.0)
    assert found is not None
    assert found.fixed == pytest.approx(expected, abs=2)


@pytest.mark.parametrize("planned", [200, 2_000, 20_000, 2_000_000])
def test_any_look_needs_more_and_a_wrong_plan_more_still(planned: int) -> None:
    rho = best_rho(planned / 4, 0.05)
    found = required_users(4.0, 0.3, alpha=0.05, power=0.8, arm_to_control=1.0, rho=rho)
    assert found is not None
    effective = effective_observations(found.anytime / 2, found.anytime / 2)
    # At that number, the effect lies the quantile of the power above the boundary.
    assert 0.3 / math.sqrt(4.0 / effective) == pytest.approx(boundary(effective, rho, 0.05) + 0.8416, rel=2e-3)
    assert found.fixed < found.anytime < 30 * found.fixed


@pytest.mark.parametrize(("variance", "effect"), [(0.0, 1.0), (1.0, 0.0), (1.0, -1.0), (math.nan, 1.0)])
def test_there_is_no_number_without_variance_or_effect(variance: float, effect: float) -> None:
    assert required_users(variance, effect, alpha=0.05, power=0.8, arm_to_control=1.0, rho=100.0) is None


def test_the_power_is_reached_at_the_required_number() -> None:
    rho = best_rho(500, 0.05)
    found = required_users(1.0, 0.2, alpha=0.05, power=0.8, arm_to_control=1.0, rho=rho)
    assert found is not None
    half, generator = found.anytime // 2, np.random.default_rng(1)
    differences = 0.2 + generator.standard_normal(20_000) * math.sqrt(2 / half)
    limit = boundary(half / 2, rho, 0.05) * math.sqrt(2 / half)
    assert (differences > limit).mean() == pytest.approx(0.8, abs=0.02)
