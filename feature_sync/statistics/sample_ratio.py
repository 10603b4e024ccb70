"""Whether users arrived in the arms in the planned ratio: by tea-tasting's check, with two limits."""

from __future__ import annotations

from tea_tasting.aggr import Aggregates
from tea_tasting.metrics import SampleRatio as SampleRatioMetric

from feature_sync.statistics.plan import ExperimentPlan
from feature_sync.statistics.results import RatioStatus, SampleRatio


def sample_ratio(plan: ExperimentPlan, arm: str, *, control_users: int, arm_users: int) -> SampleRatio:
    """Compares the users of an arm and of control with the plan's shares."""
    ratio = plan.shares[arm] / plan.shares[plan.control]
    total = control_users + arm_users
    if not total:
        return SampleRatio(expected_share=ratio / (1 + ratio), observed_share=None, p_value=None, status=RatioStatus.OK)
    counts = {False: Aggregates(count_=control_users), True: Aggregates(count_=arm_users)}
    p_value = SampleRatioMetric(ratio).analyze(counts, control=False, treatment=True).pvalue
    status = RatioStatus.OK
    if p_value < plan.sample_ratio_warn:
        status = RatioStatus.INVALID if p_value < plan.sample_ratio_invalid else RatioStatus.WARN
    return SampleRatio(
        expected_share=ratio / (1 + ratio), observed_share=arm_users / total, p_value=p_value, status=status
    )
