"""Lifts: intervals, CUPED, outliers, arms of unlike size, and everything that is no number."""

from __future__ import annotations

import json
import math
import warnings
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
import tea_tasting as tt
from scipy import stats

from feature_sync.statistics.analyse import analyse
from feature_sync.statistics.plan import Better, Metric, Role
from feature_sync.statistics.results import Outcome
from tests.feature_sync.statistics.tables import GUARD, VALUE, metric_of, normal, plan, users, zeros_and_ones

CTR = Metric(name="value", numerator="clicks", denominator="shown")


def test_a_mean_per_user_has_the_interval_and_p_value_of_welch() -> None:
    control, arm = normal(1, 400, 10.0, 2.0), normal(2, 300, 10.6, 3.0)
    result = metric_of(users({"A": {"value": control}, "B": {"value": arm}}), VALUE)
    expected = stats.ttest_ind(arm, control, equal_var=False)
    limits = expected.confidence_interval(0.95)
    assert (result.control_mean, result.arm_mean) == (pytest.approx(10.0), pytest.approx(10.6))
    lift = result.unadjusted
    assert lift is not None
    assert lift.absolute == pytest.approx(0.6)
    assert lift.relative == pytest.approx(0.06)
    assert lift.fixed_p == pytest.approx(expected.pvalue)
    assert (lift.fixed.lower, lift.fixed.upper) == (pytest.approx(limits.low), pytest.approx(limits.high))
    assert lift.anytime.lower < lift.fixed.lower < lift.fixed.upper < lift.anytime.upper
    assert lift.anytime_p > lift.fixed_p


def test_a_ratio_metric_is_not_the_mean_of_the_users_ratios() -> None:
    # One heavy user with few clicks, many light ones with many: 20 of 110 shown, where the mean of ratios is 0.9.
    shown, clicks = np.tile([100.0, *[1.0] * 10], 50), np.tile([10.0, *[1.0] * 10], 50)
    result = metric_of(users({"A": {"clicks": clicks, "shown": shown}, "B": {"clicks": clicks, "shown": shown}}), CTR)
    assert result.control_mean == pytest.approx(20 / 110)
    assert result.unadjusted is not None
    assert result.unadjusted.absolute == pytest.approx(0.0)
    assert result.outcome is Outcome.OPEN


def test_a_ratio_metric_has_the_error_of_the_jackknife() -> None:
    generator = np.random.default_rng(5)
    arms = {}
    for name, rate in (("A", 0.1), ("B", 0.11)):
        shown = generator.poisson(20 * generator.gamma(2.0, 1.0, 600)) + 1
        arms[name] = {"clicks": generator.binomial(shown, rate), "shown": shown}
    lift = metric_of(users(arms), CTR).unadjusted
    assert lift is not None

    def jackknife_variance(columns: dict[str, np.ndarray]) -> float:
        clicks, shown = columns["clicks"], columns["shown"]
        without = (clicks.sum() - clicks) / (shown.sum() - shown)
        return float((len(clicks) - 1) / len(clicks) * ((without - without.mean()) ** 2).sum())

    error = math.sqrt(sum(jackknife_variance(columns) for columns in arms.values()))
    assert (lift.fixed.upper - lift.fixed.lower) / 2 / 1.962 == pytest.approx(error, rel=0.02)


def test_cuped_finds_what_the_plain_difference_does_not() -> None:
    before_control, before_arm = normal(1, 1_000, 50, 10), normal(2, 1_000, 50, 10)
    table = users(
        {
            "A": {"value": before_control + normal(3, 1_000, 0, 2), "before": before_control},
            "B": {"value": before_arm + normal(4, 1_000, 1, 2), "before": before_arm},
        }
    )
    plain, adjusted = metric_of(table, VALUE), metric_of(table, replace(VALUE, covariate="before"))
    assert (plain.outcome, plain.adjusted, plain.not_adjusted) == (Outcome.OPEN, None, "no covariate")
    assert adjusted.outcome is Outcome.BETTER
    assert adjusted.unadjusted is not None
    assert plain.unadjusted is not None
    assert adjusted.unadjusted.anytime_p == pytest.approx(plain.unadjusted.anytime_p)
    assert adjusted.lift == adjusted.adjusted
    assert adjusted.adjusted is not None
    assert adjusted.variance_kept == pytest.approx(4 / 104, rel=0.1)
    expected = tt.Mean("value", "before", equal_var=False).analyze(
        pa.Table.from_pandas(table), control="A", treatment="B", variant="arm"
    )
    assert adjusted.adjusted.absolute == pytest.approx(expected.effect_size)
    assert adjusted.adjusted.fixed.lower == pytest.approx(expected.effect_size_ci_lower)
    assert adjusted.adjusted.fixed_p == pytest.approx(expected.pvalue)
    assert adjusted.required_users_fixed is not None
    assert plain.required_users_fixed is not None
    assert adjusted.required_users_fixed == pytest.approx(plain.required_users_fixed * 4 / 104, rel=0.15)


@pytest.mark.parametrize(
    ("before", "reason"),
    [
        (lambda value, _: np.full(len(value), np.nan), "same for all users"),
        (lambda value, _: np.zeros(len(value)), "same for all users"),
        (lambda value, _: value * 3, "the metric itself"),
        (lambda value, arm: normal(9, len(value), 10 + arm), "differs between the arms"),
        (lambda value, _: np.where(np.arange(len(value)) < 3, 1e300, value), "same for all users"),
    ],
)
def test_a_covariate_that_cannot_adjust_is_named_and_the_plain_lift_stays(before, reason: str) -> None:
    arms = {}
    for number, arm in enumerate(("A", "B")):
        value = normal(number, 500, 10 + 0.1 * number)
        arms[arm] = {"value": value, "before": before(value, number)}
    table = users(arms)
    result = metric_of(table, replace(VALUE, covariate="before"))
    assert result.adjusted is None
    assert reason in result.not_adjusted
    plain = metric_of(table, VALUE).unadjusted
    assert plain is not None
    assert result.lift is not None
    assert (result.lift.absolute, result.lift.anytime_p) == pytest.approx((plain.absolute, plain.anytime_p))


def test_users_without_a_past_are_not_adjusted_and_not_lost() -> None:
    generator = np.random.default_rng(1)
    arms = {}
    for number, arm in enumerate(("A", "B")):
        before = normal(number, 1_000, 20, 5)
        value = before + normal(10 + number, 1_000, 1.0 * number, 1)
        arms[arm] = {"value": value, "before": np.where(generator.random(1_000) < 0.5, before, np.nan)}
    result = metric_of(users(arms), replace(VALUE, covariate="before"))
    assert result.adjusted is not None
    assert result.adjusted.absolute == pytest.approx(1.0, abs=0.4)
    assert result.variance_kept == pytest.approx(0.5, abs=0.1)
    assert result.users_left_out == {"A": 0, "B": 0}


def test_a_whale_changes_a_mean_and_not_a_capped_one() -> None:
    control, arm = normal(1, 500, 10, 2), normal(2, 500, 11, 2)
    arm[0] = 1e9
    table = users({"A": {"value": control}, "B": {"value": arm}})
    plain, capped = metric_of(table, VALUE), metric_of(table, replace(VALUE, cap_quantile=0.99))
    assert plain.outcome is Outcome.OPEN
    assert capped.outcome is Outcome.BETTER
    assert capped.users_capped == 10
    assert capped.unadjusted is not None
    assert capped.unadjusted.absolute == pytest.approx(1.0, abs=0.1)
    assert plain.unadjusted is not None
    assert capped.uncapped_absolute == pytest.approx(plain.unadjusted.absolute)


def test_refunds_are_capped_on_their_side_and_a_mean_below_zero_has_no_relative_lift() -> None:
    control, arm = normal(1, 500, -1, 2), normal(2, 500, 1, 2)
    control[0] = -1e12
    result = metric_of(users({"A": {"value": control}, "B": {"value": arm}}), replace(VALUE, cap_quantile=0.99))
    assert result.outcome is Outcome.BETTER
    assert result.control_mean == pytest.approx(-1, abs=0.1)
    assert result.unadjusted is not None
    assert result.unadjusted.relative is None
    assert result.unadjusted.anytime_relative is None
    assert result.required_users is None


def test_the_cap_of_rare_amounts_is_that_of_amounts_and_not_zero() -> None:
    amounts = np.concatenate([np.zeros(9_900), np.linspace(10, 100, 99), [1e7]])
    result = metric_of(users({"A": {"value": amounts}, "B": {"value": amounts}}), replace(VALUE, cap_quantile=0.99))
    assert result.control_mean == pytest.approx(amounts[:-1].sum() / 10_000, rel=0.03)


def test_nobody_in_a_small_arm_yet_is_no_significant_loss() -> None:
    # 1 % of 1,900 users converted, and none of 100: a third of such experiments look like this without any effect. The
    # small arm's own variance is 0, which makes z = -4.4.
    table = users({"A": {"value": zeros_and_ones(19, 1_900)}, "B": {"value": zeros_and_ones(0, 100)}})
    early = metric_of(table, VALUE, shares={"A": 0.95, "B": 0.05}, min_users_with_value=0)
    assert early.unadjusted is not None
    assert early.unadjusted.fixed_p < 1e-4
    assert early.unadjusted.anytime_p > 0.5
    assert metric_of(table, VALUE, shares={"A": 0.95, "B": 0.05}).outcome is Outcome.CANNOT_SAY


@pytest.mark.parametrize("arm_value", [0.0, 0.3, 7.0])
def test_all_alike_in_both_arms_says_nothing(arm_value: float) -> None:
    same = users({"A": {"value": np.full(500, arm_value)}, "B": {"value": np.full(400, arm_value)}})
    result = metric_of(same, VALUE)
    assert (result.outcome, result.because, result.unadjusted) == (Outcome.CANNOT_SAY, "all users are alike", None)


def test_all_alike_in_each_arm_and_unlike_between_them_is_a_difference() -> None:
    table = users({"A": {"value": np.full(200, 0.1)}, "B": {"value": np.full(200, 0.3)}})
    result = metric_of(table, VALUE)
    assert result.outcome is Outcome.BETTER
    assert result.unadjusted is not None
    assert result.unadjusted.absolute == pytest.approx(0.2)
    assert result.unadjusted.anytime.lower > 0.1


def test_a_ratio_that_is_constant_with_denominators_that_vary_is_no_difference() -> None:
    shown = np.random.default_rng(1).integers(1, 90, 600).astype(float)
    table = users({arm: {"clicks": shown * 0.1, "shown": shown} for arm in ("A", "B")})
    assert metric_of(table, CTR).outcome in {Outcome.CANNOT_SAY, Outcome.OPEN}


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_no_number_leaves_the_user_out_and_is_counted(bad: float) -> None:
    control, arm = normal(1, 1_000), normal(2, 1_000, 11)
    arm[:5] = bad
    few = metric_of(users({"A": {"value": control}, "B": {"value": arm}}), VALUE)
    assert few.users_left_out == {"A": 0, "B": 5}
    assert few.outcome is Outcome.BETTER
    arm[:50] = bad
    many = metric_of(users({"A": {"value": control}, "B": {"value": arm}}), VALUE)
    assert many.outcome is Outcome.CANNOT_SAY
    assert many.because == "50 users of B (5.0%) have no usable number"


def test_a_negative_denominator_is_no_usable_number_and_zero_is_one() -> None:
    shown = np.full(1_000, 10.0)
    clicks = np.tile([0.0, 1.0], 500)
    broken = shown.copy()
    broken[:20] = -1
    empty = shown.copy()
    empty[:20] = 0
    table = users({"A": {"clicks": clicks, "shown": empty}, "B": {"clicks": clicks, "shown": broken}})
    result = metric_of(table, CTR)
    assert result.users_left_out == {"A": 0, "B": 20}
    assert result.control_mean == pytest.approx(500 / 9_800)


def test_an_arm_whose_denominator_is_gone_breaks_a_guardrail() -> None:
    latency = Metric(name="latency", numerator="ms", denominator="answers", role=Role.GUARDRAIL, better=Better.LOWER)
    table = users(
        {
            "A": {"ms": normal(1, 300), "answers": np.ones(300), "value": normal(5, 300)},
            "B": {"ms": np.zeros(300), "answers": np.zeros(300), "value": normal(6, 300)},
        }
    )
    result = metric_of(table, [VALUE, latency], "latency")
    assert (result.outcome, result.because) == (Outcome.BROKEN, "B has no answers")
    table.loc[table["arm"] == "A", "answers"] = 0
    assert metric_of(table, [VALUE, latency], "latency").outcome is Outcome.CANNOT_SAY


@pytest.mark.parametrize("size", [1e160, 1e250, 1e307])
def test_numbers_beyond_all_measure_end_in_words(size: float) -> None:
    metrics = [
        VALUE,
        replace(VALUE, name="adjusted", covariate="before"),
        replace(VALUE, name="capped", cap_quantile=0.9),
    ]
    arms = {
        arm: {"value": normal(number, 200) * size / 20, "before": normal(number + 5, 200)}
        for number, arm in enumerate(("A", "B"))
    }
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = analyse(users(arms), plan(*metrics))
    assert {metric.outcome for metric in result.arms[0].metrics} == {Outcome.CANNOT_SAY}
    assert result.arms[0].metrics[0].because == "the numbers are too large or too small to compute with"
    json.dumps(result.as_json(), allow_nan=False)


@pytest.mark.parametrize(
    ("errors", "outcome"),
    [
        ((0, 0), Outcome.HELD),
        ((2, 3), Outcome.HELD),
        ((0, 200), Outcome.BROKEN),
        ((200, 0), Outcome.HELD),
        ((200, 195), Outcome.UNPROVEN),
    ],
)
def test_a_guardrail_of_rare_errors(errors: tuple[int, int], outcome: Outcome) -> None:
    counts = {"A": 4_000, "B": 4_000}
    table = users(
        {
            arm: {"guard": zeros_and_ones(number, count), "value": normal(number, count)}
            for (arm, count), number in zip(counts.items(), errors, strict=True)
        }
    )
    assert metric_of(table, [VALUE, GUARD], "guard").outcome is outcome


def test_a_few_users_with_errors_do_not_prove_a_guardrail_of_a_small_arm() -> None:
    table = users({arm: {"guard": zeros_and_ones(2, 200), "value": normal(len(arm), 200)} for arm in ("A", "B")})
    assert metric_of(table, [VALUE, GUARD], "guard").outcome is Outcome.UNPROVEN


def test_a_small_arm_in_which_everybody_meets_errors_is_broken() -> None:
    table = users(
        {
            "A": {"guard": np.zeros(1_900), "value": normal(1, 1_900)},
            "B": {"guard": np.ones(100), "value": normal(2, 100)},
        }
    )
    result = metric_of(table, [VALUE, GUARD], "guard", shares={"A": 0.95, "B": 0.05})
    assert result.outcome is Outcome.BROKEN


def test_the_relative_interval_excludes_zero_exactly_when_the_absolute_one_does() -> None:
    for seed in range(40):
        generator = np.random.default_rng(seed)
        arms = {
            arm: {"value": (generator.random(900) < rate) * generator.lognormal(3, 1, 900)}
            for arm, rate in (("A", 0.04), ("B", 0.04 + 0.003 * (seed % 20)))
        }
        lift = metric_of(users(arms), VALUE).unadjusted
        assert lift is not None
        if lift.anytime_relative is not None:
            assert (lift.anytime_relative.lower > 0) == (lift.anytime.lower > 0)
            assert (lift.anytime_relative.upper < 0) == (lift.anytime.upper < 0)
            assert lift.relative is not None
            assert lift.anytime_relative.lower <= lift.relative <= lift.anytime_relative.upper
