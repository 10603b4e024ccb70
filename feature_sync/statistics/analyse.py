"""The one function of this room: a table of users and a plan become a result with a verdict for each arm.

Importing this module loads scipy and tea-tasting.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from tea_tasting.experiment import ExperimentResult as TeaTastingResult
from tea_tasting.multiplicity import adjust_fwer

from feature_sync.statistics.comparison import Compared, compare_metric
from feature_sync.statistics.metric_values import metric_values
from feature_sync.statistics.outcomes import metric_result
from feature_sync.statistics.plan import ExperimentPlan, Role
from feature_sync.statistics.results import ArmResult, ExperimentResult, Lift, MetricResult
from feature_sync.statistics.sample_ratio import sample_ratio
from feature_sync.statistics.user_table import UserTable, read_user_table
from feature_sync.statistics.verdict import arm_verdict


def analyse(table: Any, plan: ExperimentPlan) -> ExperimentResult:
    """Analyses an experiment. `table` is a pandas or Arrow table with a row for each (user, arm), see `plan`.

    Raises ExperimentError if the table is not as the plan says. Whatever the numbers are, the answer is a result: where
    they say nothing, the verdict is "cannot say", with the reason.
    """
    # Numbers that are too large become infinite or NaN; each step asks whether its numbers are finite.
    with np.errstate(all="ignore"):
        return _result(read_user_table(table, plan), plan)


def _result(users: UserTable, plan: ExperimentPlan) -> ExperimentResult:
    values = {metric.name: metric_values(users, metric) for metric in plan.metrics}
    arms = [arm for arm in plan.shares if arm != plan.control]
    compared = {
        arm: [compare_metric(plan, metric, arm, values[metric.name]) for metric in plan.metrics] for arm in arms
    }
    anytime = _corrected(compared, lambda lift: lift.anytime_p)
    fixed = _corrected(compared, lambda lift: lift.fixed_p)
    return ExperimentResult(
        experiment=plan.experiment,
        control=plan.control,
        alpha=plan.alpha,
        days=plan.days,
        users=len(users.arm),
        users_in_two_arms=users.users_in_two_arms,
        users_of_other_arms=users.users_of_other_arms,
        arms=tuple(
            _arm_result(
                plan,
                arm,
                users,
                [
                    metric_result(
                        plan,
                        found,
                        corrected_anytime_p=anytime.get((arm, found.metric.name)),
                        corrected_fixed_p=fixed.get((arm, found.metric.name)),
                    )
                    for found in compared[arm]
                ],
            )
            for arm in arms
        ),
    )


def _corrected(
    compared: Mapping[str, Sequence[Compared]], p_value: Callable[[Lift], float]
) -> dict[tuple[str, str], float]:
    """P-values of all goals of all arms, corrected by Holm's method, which holds however goals depend on each other. A
    goal that cannot be judged stays in the family, so that the level of the others does not depend on the data."""
    families = {
        arm: TeaTastingResult(
            {
                found.metric.name: {"pvalue": p_value(found.lift) if found.lift else 1.0}
                for found in results
                if found.metric.role is Role.GOAL
            }
        )
        for arm, results in compared.items()
    }
    adjusted = adjust_fwer(families, arbitrary_dependence=True, method="bonferroni")
    return {
        (arm, name): float(found["pvalue_adj"]) for arm, results in adjusted.items() for name, found in results.items()
    }


def _arm_result(plan: ExperimentPlan, arm: str, table: UserTable, metrics: Sequence[MetricResult]) -> ArmResult:
    users, control_users = table.users(arm), table.users(plan.control)
    ratio = sample_ratio(plan, arm, control_users=control_users, arm_users=users)
    required_users = max(
        (result.required_users for result in metrics if result.required_users is not None), default=None
    )
    users_per_day = _users_per_day(plan, arm, table)
    everybody = len(table.arm) + table.users_in_two_arms
    return ArmResult(
        arm=arm,
        users=users,
        control_users=control_users,
        sample_ratio=ratio,
        metrics=tuple(metrics),
        required_users=required_users,
        days_left=_days_left(required_users, users + control_users, users_per_day),
        verdict=arm_verdict(
            plan,
            arm,
            metrics,
            ratio,
            users=users,
            control_users=control_users,
            required_users=required_users,
            share_in_two_arms=table.users_in_two_arms / everybody if everybody else 0.0,
            users_per_day=users_per_day,
        ),
    )


def _users_per_day(plan: ExperimentPlan, arm: str, table: UserTable) -> float:
    """New users of control and arm."""
    if table.new_users_per_day is None:
        return (table.users(arm) + table.users(plan.control)) / plan.days
    return table.new_users_per_day[arm] + table.new_users_per_day[plan.control]


def _days_left(required_users: int | None, users: int, users_per_day: float) -> float | None:
    if required_users is None:
        return None
    if users >= required_users:
        return 0.0
    return (required_users - users) / users_per_day if users_per_day > 0 else None
