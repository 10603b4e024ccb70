"""Whether a log can tell what a policy would have earned, and if so, what it says beside what was earned.

The limits come from simulated logs with known truth (benchmarks/results/off-policy.md): within them the 95 % interval
covers the truth about as often as it says, below them it misses more often, because a few large weights decide.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from trainer.off_policy.estimates import RARE_WEIGHT, Estimates

MIN_EFFECTIVE_USERS: Final = 100.0
MIN_EFFECTIVE_REWARDS: Final = 100.0
MIN_RARE_REWARDS: Final = 10.0
MAX_RARE_SHARE: Final = 0.01
"""A smaller share of what the judged policy shows may rest on fewer rare rewards."""
MIN_SUPPORTED: Final = 0.98
"""Least share of what the judged policy shows that the log must speak about; the upper end of its interval counts."""

BETTER: Final = "better"
WORSE: Final = "worse"
NO_DIFFERENCE: Final = "no difference"
CANNOT_SAY: Final = "cannot say"


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What the log says."""

    decision: str
    """BETTER or WORSE than the logged answers, if the interval of the difference says so; NO_DIFFERENCE if it does not;
    CANNOT_SAY if the log cannot tell."""
    reasons: tuple[str, ...] = ()
    """Why the log cannot tell: each completes "cannot say, because ..."."""


def judge_support(estimates: Estimates) -> Verdict:
    """The verdict on estimates; the estimates themselves mean nothing if it is CANNOT_SAY."""
    support = estimates.support
    reasons = []
    if support.effective_users < MIN_EFFECTIVE_USERS:
        reasons.append(
            f"the answers weigh as much as {support.effective_users:,.0f} users with equal weights, at least "
            f"{MIN_EFFECTIVE_USERS:.0f} are needed: log longer, or explore more"
        )
    if support.effective_rewards < MIN_EFFECTIVE_REWARDS:
        reasons.append(
            f"the rewards weigh as much as {support.effective_rewards:,.0f} with equal weights, at least "
            f"{MIN_EFFECTIVE_REWARDS:.0f} are needed: log longer, or explore more"
        )
    if support.rare_share > MAX_RARE_SHARE and support.rare_rewards < MIN_RARE_REWARDS:
        reasons.append(
            f"{support.rare_share:.0%} of what would be shown was logged so seldom that one item stands for more than "
            f"{RARE_WEIGHT:.0f}, and what these are expected to earn weighs as much as {support.rare_rewards:.1f} "
            f"rewards, at least {MIN_RARE_REWARDS:.0f} are needed: log longer, or explore more"
        )
    if support.supported.high < MIN_SUPPORTED:
        reasons.append(
            f"the log speaks about {support.supported.value:.0%} of what would be shown, at least {MIN_SUPPORTED:.0%} "
            "are needed: the logged policies could not, or almost never, show the rest"
        )
    if reasons:
        return Verdict(decision=CANNOT_SAY, reasons=tuple(reasons))
    if estimates.difference.low > 0.0:
        return Verdict(decision=BETTER)
    return Verdict(decision=WORSE if estimates.difference.high < 0.0 else NO_DIFFERENCE)
