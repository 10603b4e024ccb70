"""What a compared metric means: better, worse or open for a goal; held, broken or unproven for a guardrail."""

from __future__ import annotations

from typing import Final

import numpy as np

from feature_sync.statistics.comparison import Compared
from feature_sync.statistics.metric_values import ArmValues
from feature_sync.statistics.plan import Better, ExperimentPlan, Metric, Role
from feature_sync.statistics.results import Interval, Lift, MetricResult, Outcome

_UNSEEN_USERS: Final = 10
"""Users of whom a rare loss may have befallen more than were seen. With none seen, 10 or more are expected to be missed
only once in 20,000 experiments."""


def metric_result(
    plan: ExperimentPlan, compared: Compared, *, corrected_anytime_p: float | None, corrected_fixed_p: float | None
) -> MetricResult:
    """The result of one metric; the corrected p-values are those of goals."""
    if compared.metric.role is Role.GUARDRAIL:
        outcome, because = _guardrail(compared)
    else:
        outcome, because = _difference(plan, compared, corrected_anytime_p)
    control, arm, comparison = compared.control, compared.arm, compared.comparison
    return MetricResult(
        metric=compared.metric.name,
        role=compared.metric.role,
        better=compared.metric.better,
        outcome=outcome,
        because=because,
        control_mean=control.mean if control else None,
        arm_mean=arm.mean if arm else None,
        unadjusted=comparison.unadjusted if comparison else None,
        adjusted=comparison.adjusted if comparison else None,
        not_adjusted=comparison.not_adjusted if comparison else compared.trouble,
        variance_kept=comparison.variance_kept if comparison else None,
        corrected_anytime_p=corrected_anytime_p,
        corrected_fixed_p=corrected_fixed_p,
        uncapped_absolute=_uncapped(control, arm),
        users_capped=sum(values.capped for values in (control, arm) if values),
        users_left_out={
            name: values.left_out for name, values in ((plan.control, control), (compared.name, arm)) if values
        },
        required_users=compared.required.anytime if compared.required else None,
        required_users_fixed=compared.required.fixed if compared.required else None,
    )


def loss(better: Better, interval: Interval) -> Interval:
    """The limits of a difference as limits of a loss."""
    return interval if better is Better.LOWER else Interval(lower=-interval.upper, upper=-interval.lower)


def _words(metric: Metric, lift: Lift) -> str:
    """A lift with its anytime-valid interval, in the unit that decides."""
    absolute = metric.role is Role.GUARDRAIL and not metric.margin_is_relative
    if absolute or lift.relative is None or lift.anytime_relative is None:
        found, limits, unit = lift.absolute, lift.anytime, "+.3g"
    else:
        found, limits, unit = lift.relative, lift.anytime_relative, "+.1%"
    return f"{metric.name} {found:{unit}} ({limits.lower:{unit}} to {limits.upper:{unit}})"


def _difference(plan: ExperimentPlan, compared: Compared, corrected_p: float | None) -> tuple[Outcome, str]:
    lift = compared.lift
    if lift is None:
        return Outcome.CANNOT_SAY, compared.trouble
    p_value = lift.anytime_p if corrected_p is None else corrected_p
    because = _words(compared.metric, lift)
    if p_value > plan.alpha:
        return Outcome.OPEN, because
    lost = loss(compared.metric.better, Interval(lower=lift.absolute, upper=lift.absolute)).lower > 0
    return (Outcome.WORSE if lost else Outcome.BETTER), because


def _guardrail(compared: Compared) -> tuple[Outcome, str]:
    metric = compared.metric
    if compared.vanished:
        return Outcome.BROKEN, compared.trouble
    if compared.constant is not None:
        return Outcome.HELD, f"{metric.name} is {compared.constant:.3g} for every user"
    if compared.rare:
        return _rare_guardrail(compared)
    lift = compared.lift
    if lift is None:
        return Outcome.CANNOT_SAY, compared.trouble
    limits, margin = lift.anytime, metric.margin
    if metric.margin_is_relative:
        if lift.anytime_relative is None:
            # Control's mean is hardly above 0, so that a share of it says nothing: any loss breaks.
            margin = 0.0
        else:
            limits = lift.anytime_relative
    lost = loss(metric.better, limits)
    because = f"{_words(metric, lift)}, margin {_margin(metric)}"
    if lost.lower > margin:
        return Outcome.BROKEN, because
    return (Outcome.HELD if lost.upper < margin else Outcome.UNPROVEN), because


def _rare_guardrail(compared: Compared) -> tuple[Outcome, str]:
    """Held if the loss would stay within the margin although more users of the arm were hit than were seen."""
    metric, control, arm = compared.metric, compared.control, compared.arm
    if control is None or arm is None or control.mean is None or arm.mean is None:
        return Outcome.CANNOT_SAY, compared.trouble
    margin = metric.margin * abs(control.mean) if metric.margin_is_relative else metric.margin
    spread = float(np.ptp(np.concatenate([control.per_user, arm.per_user])))
    difference = arm.mean - control.mean
    worst = loss(metric.better, Interval(lower=difference, upper=difference)).lower + _UNSEEN_USERS * spread / arm.users
    because = f"{compared.trouble}, margin {_margin(metric)}"
    return (Outcome.HELD if worst < margin else Outcome.UNPROVEN), because


def _margin(metric: Metric) -> str:
    return f"{metric.margin:.1%}" if metric.margin_is_relative else f"{metric.margin:.3g}"


def _uncapped(control: ArmValues | None, arm: ArmValues | None) -> float | None:
    if control is None or arm is None or control.uncapped_mean is None or arm.uncapped_mean is None:
        return None
    difference = arm.uncapped_mean - control.uncapped_mean
    return difference if np.isfinite(difference) else None
