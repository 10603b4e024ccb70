"""The difference between an arm and control in one metric, with intervals: by tea-tasting's delta method and CUPED.

The standard error of the anytime-valid interval is the larger of two: with the variances of each arm, and with their
common one. In a small arm where nobody converted yet its own variance is 0 and every difference would be "significant";
with the common variance alone, an arm whose variance is truly larger would be.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
from scipy.stats import norm
from tea_tasting.aggr import Aggregates
from tea_tasting.metrics import RatioOfMeans

from feature_sync.statistics.metric_values import (
    COVARIATE,
    COVARIATE_DENOMINATOR,
    DENOMINATOR,
    NUMERATOR,
    ArmValues,
)
from feature_sync.statistics.results import Interval, Lift
from tandem.contract.anytime import boundary, effective_observations, p_value

_UNBALANCED_P: Final = 0.001
"""P-value of the covariate's difference between the arms below which it does not adjust."""
_LARGEST: Final = 1e100
"""Numbers beyond it cannot be squared twice."""
_ROUNDING: Final = 1e-9
"""Standard error, as a share of a mean, that is nothing but rounding."""
_MIN_VARIANCE_KEPT: Final = 1e-6
"""A covariate that leaves less of the variance is the metric itself."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Lifts of an arm in a metric."""

    unadjusted: Lift | None
    adjusted: Lift | None
    not_adjusted: str
    variance_kept: float | None


@dataclass(frozen=True, kw_only=True)
class _Difference:
    """Two means with the variances of both, and the library's intervals for one look."""

    control: float
    arm: float
    control_variance: float
    """Of the mean."""
    arm_variance: float
    fixed: Interval
    fixed_p: float
    fixed_relative: Interval | None

    @property
    def error(self) -> float:
        """Standard error of the difference."""
        return math.sqrt(self.control_variance + self.arm_variance)


def compare(control: ArmValues, arm: ArmValues, *, rho: float, alpha: float) -> Comparison:
    """Compares two arms of at least two users each, whose denominators are not 0 and whose users are not all alike."""
    before, after = control.aggregates(), arm.aggregates()
    users = effective_observations(control.users, arm.users)
    constant = np.ptp(control.per_user) == 0 and np.ptp(arm.per_user) == 0
    plain = _between_constants(before, after, alpha) if constant else _difference(before, after, alpha, covariate=False)
    if plain is None:
        return Comparison(unadjusted=None, adjusted=None, not_adjusted="", variance_kept=None)
    reason = "both arms are constant" if constant else _why_not_adjusted(before, after)
    adjusted = None if reason else _difference(before, after, alpha, covariate=True)
    kept = (adjusted.error / plain.error) ** 2 if adjusted else None
    if not reason and (kept is None or kept < _MIN_VARIANCE_KEPT):
        adjusted, kept, reason = None, None, "the covariate is the metric itself, or is too large"
    return Comparison(
        unadjusted=_lift(plain, users, rho, alpha),
        adjusted=_lift(adjusted, users, rho, alpha) if adjusted else None,
        not_adjusted=reason,
        variance_kept=kept,
    )


def _ratio_metric(aggregates: Aggregates, *, covariate: bool, **options: object) -> RatioOfMeans:
    """tea-tasting's metric over the columns that the aggregates have."""
    return RatioOfMeans(
        NUMERATOR,
        _column(aggregates, DENOMINATOR),
        _column(aggregates, COVARIATE) if covariate else None,
        _column(aggregates, COVARIATE_DENOMINATOR) if covariate else None,
        alternative="two-sided",
        **options,
    )


def _why_not_adjusted(control: Aggregates, arm: Aggregates) -> str:
    """Empty: the covariate can adjust."""
    if COVARIATE not in control.mean_:
        return "no covariate"
    denominator = _column(control, COVARIATE_DENOMINATOR)
    if denominator and not (control.mean(denominator) > 0 and arm.mean(denominator) > 0):
        return "nothing is known of an arm's users from before the experiment"
    means = [group.mean(COVARIATE) / group.mean(denominator) for group in (control, arm)]
    variance = sum(max(group.ratio_var(COVARIATE, denominator), 0.0) / group.count() for group in (control, arm))
    if not (math.isfinite(variance) and variance > 0):
        return "the covariate is the same for all users"
    balance = 2 * norm.sf(abs(means[1] - means[0]) / math.sqrt(variance))
    if not balance >= _UNBALANCED_P:
        return f"the covariate differs between the arms (p = {balance:.2g}), though it was measured before"
    return ""


def _difference(control: Aggregates, arm: Aggregates, alpha: float, *, covariate: bool) -> _Difference | None:
    """None: users do not vary, but for rounding, or the numbers are too large."""
    metric = _ratio_metric(control, covariate=covariate, confidence_level=1 - alpha, equal_var=False, use_t=True)
    try:
        variances = _variances(control, arm, covariate=covariate)
        fixed = metric.analyze_aggregates(control, arm)
    except (ArithmeticError, ValueError):
        # Of the library: the square root of a variance that rounding made negative, a square that is too large.
        return None
    of_means = _variances_of_means(variances, (control.count(), arm.count()))
    relative = (float(fixed.rel_effect_size_ci_lower), float(fixed.rel_effect_size_ci_upper))
    return _computable(
        _Difference(
            control=float(fixed.control),
            arm=float(fixed.treatment),
            control_variance=of_means[0],
            arm_variance=of_means[1],
            fixed=Interval(lower=float(fixed.effect_size_ci_lower), upper=float(fixed.effect_size_ci_upper)),
            fixed_p=float(fixed.pvalue),
            fixed_relative=Interval(lower=relative[0], upper=relative[1])
            if min(fixed.control, fixed.treatment) > 0 and all(map(math.isfinite, relative))
            else None,
        )
    )


def _computable(found: _Difference) -> _Difference | None:
    numbers = (found.control, found.arm, found.control_variance, found.arm_variance)
    # A comparison with NaN is false.
    small = all(abs(number) < _LARGEST for number in numbers)
    if not (small and found.error > _ROUNDING * max(abs(found.control), abs(found.arm))):
        return None
    limits = (found.fixed_p, found.fixed.lower, found.fixed.upper)
    return found if all(map(math.isfinite, limits)) else None


def _variances(control: Aggregates, arm: Aggregates, *, covariate: bool) -> tuple[float, float]:
    """Variance of one user's value in each arm, as tea-tasting's CUPED leaves it."""
    value = (NUMERATOR, _column(control, DENOMINATOR))
    if not covariate:
        # Not below 0: rounding may leave a little of a ratio that is the same for all users.
        return max(float(control.ratio_var(*value)), 0.0), max(float(arm.ratio_var(*value)), 0.0)
    before = (COVARIATE, _column(control, COVARIATE_DENOMINATOR))
    total = control + arm
    slope = total.ratio_cov(*value, *before) / total.ratio_var(*before)

    def variance(group: Aggregates) -> float:
        explained = slope * (2 * group.ratio_cov(*value, *before) - slope * group.ratio_var(*before))
        return float(group.ratio_var(*value) - explained)

    return max(variance(control), 0.0), max(variance(arm), 0.0)


def _variances_of_means(variances: tuple[float, float], counts: tuple[int, int]) -> tuple[float, float]:
    """With each arm's variance or with the common one, whichever gives the larger error of the difference."""
    common = sum(variance * (count - 1) for variance, count in zip(variances, counts, strict=True)) / (sum(counts) - 2)
    own = (variances[0] / counts[0], variances[1] / counts[1])
    return max(own, (common / counts[0], common / counts[1]), key=sum)


def _between_constants(control: Aggregates, arm: Aggregates, alpha: float) -> _Difference | None:
    """Two arms, each of users who are all alike: the variance is that of all users together, as if arms did nothing."""
    denominator = _column(control, DENOMINATOR)
    variance = max(float((control + arm).ratio_var(NUMERATOR, denominator)), 0.0)
    means = [float(group.mean(NUMERATOR) / group.mean(denominator)) for group in (control, arm)]
    of_means = (variance / control.count(), variance / arm.count())
    effect, error = means[1] - means[0], math.sqrt(sum(of_means))
    half = float(norm.isf(alpha / 2)) * error
    return _computable(
        _Difference(
            control=means[0],
            arm=means[1],
            control_variance=of_means[0],
            arm_variance=of_means[1],
            fixed=Interval(lower=effect - half, upper=effect + half),
            fixed_p=float(2 * norm.sf(abs(effect) / error)) if error > 0 else math.nan,
            fixed_relative=None,
        )
    )


def _column(aggregates: Aggregates, name: str) -> str | None:
    """The column as tea-tasting takes it; None: the metric has none."""
    return name if name in aggregates.mean_ else None


def _lift(found: _Difference, users: float, rho: float, alpha: float) -> Lift:
    effect, width = found.arm - found.control, boundary(users, rho, alpha)
    relative = _relative(found, width)
    return Lift(
        absolute=effect,
        anytime=Interval(lower=effect - width * found.error, upper=effect + width * found.error),
        anytime_p=p_value(effect / found.error, users, rho),
        fixed=found.fixed,
        fixed_p=found.fixed_p,
        relative=effect / found.control if relative else None,
        anytime_relative=relative,
        fixed_relative=found.fixed_relative if relative else None,
    )


def _relative(found: _Difference, width: float) -> Interval | None:
    """By Fieller's theorem: every relative lift that the two means, with their errors, do not exclude. It holds 0 when
    the absolute interval does, unlike an interval of the logarithm, and an arm's mean may be 0 or negative. None:
    control's mean may be 0, so that any share of it is possible."""
    lead = found.control**2 - width**2 * found.control_variance
    if found.control <= 0 or lead <= 0:
        return None
    middle = found.arm * found.control
    root = math.sqrt(max(middle**2 - lead * (found.arm**2 - width**2 * found.arm_variance), 0.0))
    return Interval(lower=(middle - root) / lead - 1, upper=(middle + root) / lead - 1)
