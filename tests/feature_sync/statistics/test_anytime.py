"""The interval that is valid at any time, against the package ville and by simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest
import ville

from feature_sync.statistics.anytime import best_rho, boundary, effective_users, p_value


@pytest.mark.parametrize("alpha", [0.001, 0.0125, 0.05, 0.2])
@pytest.mark.parametrize("users", [10, 500, 1_000_000])
def test_the_boundary_is_that_of_ville(users: int, alpha: float) -> None:
    for rho in (3.0, 100.0, 12_345.0):
        # ville's boundary is of the sum of observations with variance 1, ours is in standard errors of their mean.
        expected = float(ville.normal_mixture(users, alpha, rho)) / math.sqrt(users)
        assert boundary(users, rho, alpha) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("alpha", [0.01, 0.05])
def test_the_interval_is_narrowest_at_the_planned_number(alpha: float) -> None:
    rho = best_rho(5_000, alpha)
    assert rho == pytest.approx(ville.best_rho(5_000, alpha), rel=1e-3)
    assert boundary(5_000, rho, alpha) < min(boundary(5_000, rho * factor, alpha) for factor in (0.8, 0.99, 1.01, 1.25))


def test_a_whole_stream_gets_the_intervals_of_ville() -> None:
    values = np.random.default_rng(3).exponential(2.0, 3_000)
    expected = ville.AsymptoticCS(alpha=0.05, t_opt=800, min_samples=100).fit(values)
    rho = best_rho(800, 0.05)
    for count in (100, 101, 800, 3_000):
        seen = values[:count]
        half = boundary(count, rho, 0.05) * seen.std(ddof=1) / math.sqrt(count)
        assert expected.lower_[count - 1] == pytest.approx(seen.mean() - half, rel=1e-4)
        assert expected.upper_[count - 1] == pytest.approx(seen.mean() + half, rel=1e-4)


def test_the_p_value_is_the_smallest_alpha_whose_interval_excludes_zero() -> None:
    rho = best_rho(1_000, 0.05)
    for alpha in (1e-6, 0.01, 0.05, 0.5):
        assert p_value(boundary(700, rho, alpha), 700, rho) == pytest.approx(alpha, rel=1e-9)
    assert p_value(0.0, 700, rho) == 1.0
    assert p_value(1e6, 700, rho) == 0.0


def test_effective_users_are_half_of_an_even_arm_and_near_the_small_arm_of_an_uneven_one() -> None:
    assert effective_users(500, 500) == 250
    assert effective_users(95_000, 5_000) == pytest.approx(4_750)


def test_peeking_after_every_observation_errs_no_more_than_alpha() -> None:
    generator, alpha, experiments, observations = np.random.default_rng(1), 0.1, 2_000, 1_000
    sums = generator.standard_normal((experiments, observations)).cumsum(axis=1)
    counts = np.arange(1, observations + 1)
    rho = best_rho(300, alpha)
    limits = np.array([boundary(count, rho, alpha) for count in counts])
    ever = (np.abs(sums) / np.sqrt(counts) > limits).any(axis=1).mean()
    fixed = (np.abs(sums) / np.sqrt(counts) > 1.645).any(axis=1).mean()
    assert ever <= alpha < 0.4 < fixed
