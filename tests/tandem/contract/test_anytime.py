"""The intervals that are valid at any time, against the package ville and by simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest
import ville
from scipy.special import lambertw

from tandem.contract.anytime import best_rho, boundary, effective_observations, p_value, share_interval


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


def test_effective_observations_are_half_of_an_even_arm_and_near_the_small_arm_of_an_uneven_one() -> None:
    assert effective_observations(500, 500) == 250
    assert effective_observations(95_000, 5_000) == pytest.approx(4_750)


def test_peeking_after_every_observation_errs_no_more_than_alpha() -> None:
    generator, alpha, experiments, observations = np.random.default_rng(1), 0.1, 2_000, 1_000
    sums = generator.standard_normal((experiments, observations)).cumsum(axis=1)
    counts = np.arange(1, observations + 1)
    rho = best_rho(300, alpha)
    limits = np.array([boundary(count, rho, alpha) for count in counts])
    ever = (np.abs(sums) / np.sqrt(counts) > limits).any(axis=1).mean()
    fixed = (np.abs(sums) / np.sqrt(counts) > 1.645).any(axis=1).mean()
    assert ever <= alpha < 0.4 < fixed


@pytest.mark.parametrize("alpha", [1e-12, 0.001, 0.05, 0.5, 0.99])
def test_the_best_rho_solves_lamberts_equation(alpha: float) -> None:
    expected = -1.0 / (1.0 + lambertw(-(alpha**2) / math.e, -1).real)
    assert best_rho(1.0, alpha) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(("seen", "alpha"), [(0.0, 0.05), (0.02, 0.001), (0.3, 0.01), (1.0, 0.01)])
def test_the_interval_of_a_share_is_that_of_ville(seen: float, alpha: float) -> None:
    values = (np.random.default_rng(5).random(600) < seen).astype(float)
    expected = ville.BernoulliCS(alpha=alpha, intersect=False).fit(values)
    for count in (1, 2, 10, 64, 600):
        low, high = share_interval(values[:count].sum(), count, alpha)
        assert low == pytest.approx(expected.lower_[count - 1], abs=1e-6)
        assert high == pytest.approx(expected.upper_[count - 1], abs=1e-6)


def test_without_observations_every_share_is_possible() -> None:
    assert share_interval(0.0, 0.0, 0.05) == (0.0, 1.0)


def test_observations_that_are_worth_less_widen_the_interval_of_a_share() -> None:
    low, high = share_interval(30.0, 100.0, 0.01)
    wider_low, wider_high = share_interval(7.5, 25.0, 0.01)
    assert wider_low < low < 0.3 < high < wider_high


def test_peeking_at_a_share_after_every_observation_errs_no_more_than_alpha() -> None:
    generator, alpha, share = np.random.default_rng(2), 0.1, 0.05
    wrong = 0
    for _ in range(300):
        counts = (generator.random(400) < share).cumsum()
        wrong += any(
            not low <= share <= high
            for low, high in (share_interval(float(counts[n - 1]), n, alpha) for n in range(1, 401, 4))
        )
    assert wrong / 300 <= alpha
