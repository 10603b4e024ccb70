"""One metric of one arm against control: the numbers, or the reason why there are none."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from feature_sync.statistics.lift import Comparison, compare
from feature_sync.statistics.metric_values import ArmValues
from feature_sync.statistics.plan import ExperimentPlan, Metric, Role
from feature_sync.statistics.results import Lift
from feature_sync.statistics.sample_size import RequiredUsers, required_users
from tandem.contract.anytime import best_rho, effective_observations

_TOO_LARGE: Final = "the numbers are too large or too small to compute with"


@dataclass(frozen=True, kw_only=True)
class Compared:
    """What one metric says of one arm, before several metrics are corrected for."""

    metric: Metric
    name: str
    """Of the arm."""
    control: ArmValues | None
    arm: ArmValues | None
    comparison: Comparison | None
    """None: `trouble` says why."""
    trouble: str
    constant: float | None
    """The value that every user of both arms has; None: they differ."""
    rare: bool
    """Too few users differ from the others for an interval."""
    vanished: bool
    """The arm's users have nothing of the denominator, and control's have."""
    required: RequiredUsers | None

    @property
    def lift(self) -> Lift | None:
        """The lift that decides: adjusted where it could be."""
        return (self.comparison.adjusted or self.comparison.unadjusted) if self.comparison else None


def hypotheses(plan: ExperimentPlan) -> int:
    """Number of questions that share the risk `alpha`: every goal of every arm."""
    return sum(metric.role is Role.GOAL for metric in plan.metrics) * (len(plan.shares) - 1)


def compare_metric(plan: ExperimentPlan, metric: Metric, arm: str, values: Mapping[str, ArmValues]) -> Compared:
    """Compares an arm with control in one metric."""
    control_values, arm_values = values.get(plan.control), values.get(arm)
    result = Compared(
        metric=metric,
        name=arm,
        control=control_values,
        arm=arm_values,
        comparison=None,
        trouble="",
        constant=None,
        rare=False,
        vanished=False,
        required=None,
    )
    if control_values is None or arm_values is None:
        missing = plan.control if control_values is None else arm
        return replace(result, trouble=f"{missing} has no users")
    for name, found in ((plan.control, control_values), (arm, arm_values)):
        if trouble := _trouble(plan, name, found):
            return replace(result, trouble=trouble)
    if arm_values.mean is None or control_values.mean is None:
        return _without_mean(result, plan.control, arm)
    differing, in_smaller_arm = _users_who_differ(control_values, arm_values)
    if not differing:
        return replace(result, trouble="all users are alike", constant=float(arm_values.per_user[0]))
    if in_smaller_arm < plan.min_users_with_value:
        trouble = f"only {differing} users of both arms differ from the most common value"
        return replace(result, trouble=trouble, rare=True)
    rho = _rho(plan, arm)
    comparison = compare(control_values, arm_values, rho=rho, alpha=plan.alpha)
    if comparison.unadjusted is None:
        return replace(result, trouble=_TOO_LARGE)
    result = replace(result, comparison=comparison)
    return replace(result, required=_required(plan, metric, arm, result, rho))


def _trouble(plan: ExperimentPlan, name: str, values: ArmValues) -> str:
    share = values.left_out / (values.left_out + values.users)
    if share > plan.max_share_left_out:
        return f"{values.left_out} users of {name} ({share:.1%}) have no usable number"
    if values.users < plan.min_users:
        return f"{name} has {values.users} users, {plan.min_users} are needed"
    return ""


def _without_mean(compared: Compared, control: str, arm: str) -> Compared:
    empty = [
        name
        for name, values in ((control, compared.control), (arm, compared.arm))
        if values is not None and values.mean is None and not values.has_denominator
    ]
    if not empty:
        return replace(compared, trouble=_TOO_LARGE)
    trouble = f"{' and '.join(empty)} has no {compared.metric.denominator}"
    return replace(compared, trouble=trouble, vanished=empty == [arm])


def _users_who_differ(control: ArmValues, arm: ArmValues) -> tuple[int, float]:
    """Users who differ from the most common value in both arms; of those, how many the smaller arm has or, if arms were
    alike, would have, whichever is more: an arm where everybody changed is seen, and so is one where nobody is left."""
    both = np.concatenate([control.per_user, arm.per_user])
    found, counts = np.unique(both, return_counts=True)
    common = found[counts.argmax()]
    differing = len(both) - int(counts.max())
    smaller = arm if arm.users <= control.users else control
    observed = int((smaller.per_user != common).sum())
    return differing, max(observed, differing * smaller.users / len(both))


def _rho(plan: ExperimentPlan, arm: str) -> float:
    share = plan.shares[arm] / (plan.shares[arm] + plan.shares[plan.control])
    users = effective_observations(plan.planned_users * (1 - share), plan.planned_users * share)
    return best_rho(users, plan.alpha / hypotheses(plan))


def _required(plan: ExperimentPlan, metric: Metric, arm: str, compared: Compared, rho: float) -> RequiredUsers | None:
    if metric.role is Role.WATCHED or compared.control is None or compared.control.mean is None:
        return None
    share = metric.minimum_lift if metric.role is Role.GOAL else metric.margin
    relative = metric.role is Role.GOAL or metric.margin_is_relative
    kept = compared.comparison.variance_kept if compared.comparison else None
    return required_users(
        compared.control.variance * (1.0 if kept is None else kept),
        share * compared.control.mean if relative else share,
        # Of several goals, the first to be found must pass the strictest level.
        alpha=plan.alpha / (hypotheses(plan) if metric.role is Role.GOAL else 1),
        power=plan.power,
        arm_to_control=plan.shares[arm] / plan.shares[plan.control],
        rho=rho,
    )
