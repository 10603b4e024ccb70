"""From the outcomes of an arm's metrics to what should be done with it. First what forbids to trust the numbers or to
go on, then goals, guardrails and time."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from feature_sync.statistics.outcomes import loss
from feature_sync.statistics.plan import ExperimentPlan, Role
from feature_sync.statistics.results import (
    Decision,
    MetricResult,
    Outcome,
    RatioStatus,
    SampleRatio,
    Verdict,
)


def arm_verdict(
    plan: ExperimentPlan,
    arm: str,
    metrics: Sequence[MetricResult],
    ratio: SampleRatio,
    *,
    users: int,
    control_users: int,
    required_users: int | None,
    share_in_two_arms: float,
    users_per_day: float,
) -> Verdict:
    """The verdict on one arm. A broken guardrail stops it even where lifts cannot be believed: to stop is safe."""
    cautions = _cautions(metrics, ratio)

    def verdict(decision: Decision, because: str) -> Verdict:
        return Verdict(decision=decision, because=because, cautions=cautions)

    for name, found in ((plan.control, control_users), (arm, users)):
        if found < plan.min_users:
            return verdict(Decision.CANNOT_SAY, f"{name} has {found} users, {plan.min_users} are needed")
    if broken := _of(metrics, Role.GUARDRAIL, Outcome.BROKEN):
        return verdict(Decision.STOP, f"guardrails are broken: {_list(broken)}")
    if ratio.status is RatioStatus.INVALID:
        return verdict(
            Decision.CANNOT_SAY,
            f"{arm} has {ratio.observed_share:.2%} of the users instead of {ratio.expected_share:.2%}"
            f" (p = {ratio.p_value:.1g}): assignment or logging is broken",
        )
    if share_in_two_arms > plan.max_share_left_out:
        return verdict(Decision.CANNOT_SAY, f"{share_in_two_arms:.1%} of the users were in two arms")
    users += control_users
    return verdict(*_by_goals(plan, metrics, users=users, required_users=required_users, users_per_day=users_per_day))


def _by_goals(
    plan: ExperimentPlan,
    metrics: Sequence[MetricResult],
    *,
    users: int,
    required_users: int | None,
    users_per_day: float,
) -> tuple[Decision, str]:
    goals = [result for result in metrics if result.role is Role.GOAL]
    better, worse = _of(metrics, Role.GOAL, Outcome.BETTER), _of(metrics, Role.GOAL, Outcome.WORSE)
    enough = required_users is not None and users >= required_users
    so_far = f"{users:,} users so far" + ("" if required_users is None else f", {required_users:,} are required")
    if worse and better:
        return Decision.CANNOT_SAY, f"goals disagree: better {_list(better)}; worse {_list(worse)}"
    if worse:
        return Decision.STOP, f"it is worse: {_list(worse)}"
    if better:
        return _with_a_lift(plan, metrics, better, enough=enough, so_far=so_far)
    if all(result.outcome is Outcome.CANNOT_SAY for result in goals):
        return Decision.CANNOT_SAY, "; ".join(f"{result.metric}: {result.because}" for result in goals)
    if all(_ruled_out(plan, result) for result in goals):
        return Decision.STOP, f"no goal gains what the plan looks for: {_list(goals)}"
    if enough:
        return (
            Decision.CANNOT_SAY,
            f"the required number of users is reached ({so_far}), and no lift is shown: {_list(goals)}",
        )
    first = min((goal.required_users for goal in goals if goal.required_users is not None), default=0)
    reachable = users + users_per_day * max(0.0, plan.max_days - plan.days)
    if first > reachable:
        return (
            Decision.CANNOT_SAY,
            f"{first:,} users are required for the first goal, and {plan.max_days:g} days bring {reachable:,.0f}",
        )
    return Decision.GO_ON, f"nothing is shown yet: {so_far}"


def _with_a_lift(
    plan: ExperimentPlan, metrics: Sequence[MetricResult], better: Iterable[MetricResult], *, enough: bool, so_far: str
) -> tuple[Decision, str]:
    if plan.days < plan.min_days:
        return Decision.GO_ON, f"it has run {plan.days:.1f} of {plan.min_days:g} days: {_list(better)}"
    open_guardrails = [
        result for result in metrics if result.role is Role.GUARDRAIL and result.outcome is not Outcome.HELD
    ]
    if not open_guardrails:
        return Decision.SHIP, f"it is better: {_list(better)}"
    unproven = f"it is better ({_list(better)}), but guardrails are not proven: {_list(open_guardrails)}"
    return (Decision.CANNOT_SAY if enough else Decision.GO_ON), f"{unproven}; {so_far}"


def _ruled_out(plan: ExperimentPlan, result: MetricResult) -> bool:
    (metric,) = (metric for metric in plan.metrics if metric.name == result.metric)
    if result.lift is None or result.lift.anytime_relative is None:
        return False
    return -loss(metric.better, result.lift.anytime_relative).lower < metric.minimum_lift


def _of(metrics: Iterable[MetricResult], role: Role, outcome: Outcome) -> list[MetricResult]:
    return [result for result in metrics if result.role is role and result.outcome is outcome]


def _list(results: Iterable[MetricResult]) -> str:
    return ", ".join(
        f"{result.metric}: {result.because}" if result.lift is None else result.because for result in results
    )


def _cautions(metrics: Sequence[MetricResult], ratio: SampleRatio) -> tuple[str, ...]:
    cautions = []
    if ratio.status is not RatioStatus.OK:
        cautions.append(
            f"sample ratio {ratio.status}: {ratio.observed_share:.2%} of the users, {ratio.expected_share:.2%} planned"
        )
    if not any(result.role is Role.GUARDRAIL for result in metrics):
        cautions.append("no guardrail is measured")
    for result in metrics:
        if result.role is not Role.GUARDRAIL and result.outcome is Outcome.CANNOT_SAY:
            cautions.append(f"{result.metric} cannot be judged: {result.because}")
        elif "differs between the arms" in result.not_adjusted:
            cautions.append(f"{result.metric}: {result.not_adjusted}")
        if left_out := sum(result.users_left_out.values()):
            cautions.append(f"{result.metric} leaves out {left_out} users without a usable number")
    return tuple(cautions)
