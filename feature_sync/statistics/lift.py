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
from tea_tasting.metrics.mean import MeanResult

from feature_sync.statistics.anytime import boundary, effective_users, p_value
from feature_sync.statistics.metric_values import (
    COVARIATE,
    COVARIATE_DENOMINATOR,
    DENOMINATOR,
    NUMERATOR,
    ArmValues,
)
from feature_sync.statistics.results import Interval, Lift

_UNBALANCED_P: Final = 0.001
"""P-value of the covariate's difference between the arms below which it does not adjust."""
_MIN_VARIANCE_KEPT: Final = 1e-6
"""A covariate that leaves less of the variance is the metric itself."""
_MIN_CONTROL_Z: Final = 2.0
"""Standard errors that control's mean must lie above 0, for a lift as a share of it."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Lifts of an arm in a metric."""

    unadjusted: Lift | None
    adjusted: Lift | None
    not_adjusted: str
    variance_kept: float | None


@dataclass(frozen=True, kw_only=True)
class _Difference:
    """Two means, the standard error of their difference, and of the logarithm of their ratio."""

    control: float
    arm: float
    error: float
    log_error: float
    control_error: float
    fixed: Interval
    fixed_p: float
    fixed_relative: tuple[float, float]


def compare(control: ArmValues, arm: ArmValues, *, rho: float, alpha: float) -> Comparison:
    """Compares two arms of at least two users each, whose denominators are not 0 and whose users are not all alike."""
    before, after = control.aggregates(), arm.aggregates()
    users = effective_users(control.users, arm.users)
    constant = np.ptp(control.per_user) == 0 and np.ptp(arm.per_user) == 0
    plain = _between_constants(before, after, alpha) if constant else _difference(before, after, alpha, covariate=False)
    if plain is None:
        return Comparison(unadjusted=None, adjusted=None, not_adjusted="", variance_kept=None)
    reason = "both arms are constant" if constant else _why_not_adjusted(before, after)
    adjusted = None if reason else _difference(before, after, alpha, covariate=True)
    kept = None if adjusted is None else (adjusted.error / plain.error) ** 2
    if not reason and (adjusted is None or kept is None or kept < _MIN_VARIANCE_KEPT):
        adjusted, kept, reason = None, None, "the covariate is the metric itself, or is too large"
    return Comparison(
        unadjusted=_lift(plain, users, rho, alpha),
        adjusted=_lift(adjusted, users, rho, alpha) if adjusted else None,
        not_adjusted=reason,
        variance_kept=kept,
    )


def ratio_metric(aggregates: Aggregates, *, covariate: bool, **options: object) -> RatioOfMeans:
    """tea-tasting's metric over the columns that the aggregates have."""
    names = aggregates.mean_

    def column(name: str) -> str | None:
        return name if name in names else None

    return RatioOfMeans(
        NUMERATOR,
        column(DENOMINATOR),
        column(COVARIATE) if covariate else None,
        column(COVARIATE_DENOMINATOR) if covariate else None,
        alternative="two-sided",
        **options,
    )


def _why_not_adjusted(control: Aggregates, arm: Aggregates) -> str:
    """Empty: the covariate can adjust."""
    if COVARIATE not in control.mean_:
        return "no covariate"
    denominator = COVARIATE_DENOMINATOR if COVARIATE_DENOMINATOR in control.mean_ else None
    if denominator and not (control.mean(denominator) > 0 and arm.mean(denominator) > 0):
        return "nothing is known of an arm's users from before the experiment"
    variance = (control + arm).ratio_var(COVARIATE, denominator)
    if not math.isfinite(variance) or variance <= 0:
        return "the covariate is the same for all users"
    balance = RatioOfMeans(COVARIATE, denominator, equal_var=True, use_t=False).analyze_aggregates(control, arm)
    if not balance.pvalue >= _UNBALANCED_P:
        return f"the covariate differs between the arms (p = {balance.pvalue:.2g}), though it was measured before"
    return ""


def _difference(control: Aggregates, arm: Aggregates, alpha: float, *, covariate: bool) -> _Difference | None:
    """None: the numbers are too large."""
    with np.errstate(all="ignore"):
        fixed = ratio_metric(
            control, covariate=covariate, confidence_level=1 - alpha, equal_var=False, use_t=True
        ).analyze_aggregates(control, arm)
        variances = _variances(control, arm, covariate=covariate)
    counts, means = (control.count(), arm.count()), (float(fixed.control), float(fixed.treatment))
    error = _standard_error(variances, counts)
    if not (math.isfinite(error) and error > 0 and math.isfinite(fixed.pvalue)):
        return None
    logarithmic = (variances[0] / means[0] ** 2, variances[1] / means[1] ** 2) if min(means) > 0 else (math.inf,) * 2
    return _Difference(
        control=means[0],
        arm=means[1],
        error=error,
        log_error=_standard_error(logarithmic, counts),
        control_error=math.sqrt(variances[0] / counts[0]),
        fixed=Interval(lower=float(fixed.effect_size_ci_lower), upper=float(fixed.effect_size_ci_upper)),
        fixed_p=float(fixed.pvalue),
        fixed_relative=(float(fixed.rel_effect_size_ci_lower), float(fixed.rel_effect_size_ci_upper)),
    )


def _variances(control: Aggregates, arm: Aggregates, *, covariate: bool) -> tuple[float, float]:
    """Variance of one user's value in each arm, as tea-tasting's CUPED leaves it."""
    value = (NUMERATOR, _denominator(control))
    if not covariate:
        return float(control.ratio_var(*value)), float(arm.ratio_var(*value))
    before = (COVARIATE, COVARIATE_DENOMINATOR if COVARIATE_DENOMINATOR in control.mean_ else None)
    total = control + arm
    slope = total.ratio_cov(*value, *before) / total.ratio_var(*before)

    def variance(group: Aggregates) -> float:
        explained = slope * (2 * group.ratio_cov(*value, *before) - slope * group.ratio_var(*before))
        return float(group.ratio_var(*value) - explained)

    return max(variance(control), 0.0), max(variance(arm), 0.0)


def _standard_error(variances: tuple[float, ...], counts: tuple[int, int]) -> float:
    """The larger of that with each arm's variance and that with the common one."""
    own = sum(variance / count for variance, count in zip(variances, counts, strict=True))
    common = sum(variance * (count - 1) for variance, count in zip(variances, counts, strict=True)) / (sum(counts) - 2)
    return math.sqrt(max(own, common * sum(1 / count for count in counts)))


def _between_constants(control: Aggregates, arm: Aggregates, alpha: float) -> _Difference | None:
    """Two arms, each of users who are all alike: the variance is that of all users together, as if arms did nothing."""
    variance = (control + arm).ratio_var(NUMERATOR, _denominator(control))
    error = math.sqrt(variance * (1 / control.count() + 1 / arm.count())) if variance > 0 else math.nan
    means = [group.mean(NUMERATOR) / group.mean(_denominator(group)) for group in (control, arm)]
    if not math.isfinite(error):
        return None
    half = float(norm.isf(alpha / 2)) * error
    effect = means[1] - means[0]
    return _Difference(
        control=means[0],
        arm=means[1],
        error=error,
        log_error=math.inf,
        control_error=0.0,
        fixed=Interval(lower=effect - half, upper=effect + half),
        fixed_p=float(2 * norm.sf(abs(effect) / error)),
        fixed_relative=(math.nan, math.nan),
    )


def _denominator(aggregates: Aggregates) -> str | None:
    return DENOMINATOR if DENOMINATOR in aggregates.mean_ else None


def _lift(found: _Difference, users: float, rho: float, alpha: float) -> Lift:
    effect = found.arm - found.control
    width = boundary(users, rho, alpha)
    anytime = Interval(lower=effect - width * found.error, upper=effect + width * found.error)
    relative, anytime_relative, fixed_relative = None, None, None
    if found.control > _MIN_CONTROL_Z * found.control_error:
        relative = effect / found.control
        if found.arm > 0 and math.isfinite(found.log_error) and width * found.log_error < 100:
            ratio, factor = found.arm / found.control, math.exp(width * found.log_error)
            anytime_relative = Interval(lower=ratio / factor - 1, upper=ratio * factor - 1)
            fixed_relative = Interval(lower=found.fixed_relative[0], upper=found.fixed_relative[1])
        else:
            # An arm's mean of 0 or below has no logarithm: control's mean is taken as known.
            anytime_relative, fixed_relative = (
                Interval(lower=interval.lower / found.control, upper=interval.upper / found.control)
                for interval in (anytime, found.fixed)
            )
    return Lift(
        absolute=effect,
        anytime=anytime,
        anytime_p=p_value(effect / found.error, users, rho),
        fixed=found.fixed,
        fixed_p=found.fixed_p,
        relative=relative,
        anytime_relative=anytime_relative,
        fixed_relative=fixed_relative,
    )
