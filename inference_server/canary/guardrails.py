"""When a canary is bad: what its users got is compared with what its control group got, at every look.

The intervals hold however often one looks (`tandem.contract.anytime`), and the limits of error of all guardrails add
up to 0.045: a canary that is as good as the champion is taken back by chance in at most that share of cases, over its
whole life. What was counted in groups of users is worth less by as much as the groups differ more than chance allows.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from inference_server.canary.counts import (
    ANSWERS,
    CLICKS,
    COMPARED,
    DEGRADED,
    FAILED,
    HARMED,
    MIN_GROUPS,
    NUM_GROUPS,
    SHORT,
    SLOW_BOUNDS,
    ArmCounts,
)
from tandem.contract.anytime import best_rho, boundary, effective_observations, share_interval

_ALPHA_SHARE: Final = 0.005
"""Of each of the three shares of answers, of all limits of time together, and of runs."""
_ALPHA_CLICKS: Final = 0.02
_MARGINS: Final = {FAILED: 0.01, DEGRADED: 0.02, SHORT: 0.02}
"""Differences of shares, canary minus control, that are put up with."""
_SLOW_MARGIN: Final = 0.05
CLICKS_MARGIN: Final = 0.05
"""Share of the control's clicks per answer that a canary may lose."""
_MIN_CLICKS: Final = 50
"""Of both arms together, for an interval that rests on the central limit theorem."""
_MIN_CLICK_GROUPS: Final = 30
_CLICKS_RHO: Final = best_rho(1_000.0, _ALPHA_CLICKS)
"""Narrowest at about 2,000 answers in each arm."""
MIN_RUN: Final = 10
"""Harmed answers in a row that end a canary, where the control group has next to none."""
_WORDS: Final = {
    FAILED: "requests without an answer by the arm's model",
    DEGRADED: "degraded answers",
    SHORT: "lists that are shorter than asked for",
}


@dataclass(frozen=True)
class Breach:
    """A guardrail that is broken."""

    guardrail: str
    """`not_finite`, `run`, `failed`, `degraded`, `short`, `slow` or `clicks`."""
    reason: str
    num_harmed: int
    """Answers of the canary that were bad in the guardrail's sense, or harmed in another."""


def breach(
    canary: ArmCounts, control: ArmCounts, *, longest_run: int, control_in_run: tuple[int, int] = (0, 0)
) -> Breach | None:
    """The first guardrail that is broken; None: none is. `longest_run` is the longest run of harmed answers,
    `control_in_run` the control group's harmed answers and all of its answers meanwhile."""
    return next(_breaches(canary, control, longest_run, control_in_run), None)


def _breaches(
    canary: ArmCounts, control: ArmCounts, longest_run: int, control_in_run: tuple[int, int]
) -> Iterator[Breach]:
    answers, harmed = canary[ANSWERS], canary[HARMED]
    if canary.not_finite:
        reason = f"its model made NaN or infinity {canary.not_finite} times in {answers} answers"
        yield Breach("not_finite", reason, max(harmed, canary.not_finite))
    if longest_run >= _run_limit(canary, control, control_in_run):
        yield Breach("run", f"{longest_run} answers in a row were degraded, short or errors", harmed)
    for name, margin in _MARGINS.items():
        if _excess(name, canary, control) > margin:
            shares = _compared(canary[name], answers, control[name], control[ANSWERS])
            yield Breach(name, f"{_WORDS[name]}: {shares}", max(harmed, canary[name]))
    yield from _slow(canary, control, harmed)
    fewer = _fewer_clicks(canary, control)
    if fewer is not None:
        yield Breach(CLICKS, fewer, answers)


def _run_limit(canary: ArmCounts, control: ArmCounts, control_in_run: tuple[int, int]) -> int:
    """The length that chance gives a run in a share _ALPHA_SHARE of canaries whose answers are as the control's."""
    share = (control[HARMED] + 1.0) / (control[ANSWERS] + 2.0)
    harmed, answers = control_in_run
    if answers:
        # What harms everybody for a moment, as a machine that stands still, gives both arms long runs.
        share = max(share, (harmed + 1.0) / (answers + 2.0))
    # A run may begin at each of n answers; n squared, so that it holds at every n together.
    by_chance = math.log(_ALPHA_SHARE / max(canary[ANSWERS], 1) ** 2) / math.log(share)
    return max(MIN_RUN, math.ceil(by_chance))


def _excess(name: str, canary: ArmCounts, control: ArmCounts) -> float:
    """The least difference between the arms' shares of answers that the counts by group leave possible."""
    if sum(count > 0 for count in canary.by_group[name]) < MIN_GROUPS:
        return 0.0
    # Of both arms, because one without a single bad answer does not show how users differ.
    factor = max(_design_effect(name, canary), _design_effect(name, control))
    arms = (canary[name], canary[ANSWERS], control[name], control[ANSWERS])
    return _least_excess(*(number / factor for number in arms), alpha=_ALPHA_SHARE)


def _least_excess(count: float, answers: float, control: float, control_answers: float, *, alpha: float) -> float:
    if not answers or not control_answers or count / answers <= control / control_answers:
        return 0.0
    low, _ = share_interval(count, answers, alpha / 2)
    _, high = share_interval(control, control_answers, alpha / 2)
    return low - high


def _design_effect(name: str, arm: ArmCounts) -> float:
    """The factor by which a share varies more between groups of users than one of independent answers would; at least
    1."""
    count, answers = arm[name], arm[ANSWERS]
    if not 0 < count < answers:
        return 1.0
    share = count / answers
    groups = zip(arm.by_group[name], arm.by_group[ANSWERS], strict=True)
    squares = sum((part - whole * share) ** 2 for part, whole in groups) * NUM_GROUPS / (NUM_GROUPS - 1)
    return max(1.0, squares / (answers * share * (1.0 - share)))


def _slow(canary: ArmCounts, control: ArmCounts, harmed: int) -> Iterator[Breach]:
    """Answers beyond a limit, compared with the control's beyond the limit below: that is at least twice as slow."""
    alpha = _ALPHA_SHARE / (len(SLOW_BOUNDS) - 1)
    for bound in range(1, len(SLOW_BOUNDS)):
        slow, control_slow = canary.slower_than(bound), control.slower_than(bound - 1)
        excess = _least_excess(slow, canary.timed, control_slow, control.timed, alpha=alpha)
        if excess > _SLOW_MARGIN:
            limit, below = (1e3 * SLOW_BOUNDS[index] for index in (bound, bound - 1))
            shares = _compared(slow, canary.timed, control_slow, control.timed)
            reason = f"answers that took more than {limit:g} ms, the control's more than {below:g} ms: {shares}"
            yield Breach("slow", reason, max(harmed, slow))


def _fewer_clicks(canary: ArmCounts, control: ArmCounts) -> str | None:
    answers, control_answers = canary[COMPARED], control[COMPARED]
    clicks, control_clicks = canary[CLICKS], control[CLICKS]
    groups = sum(
        1 for one, other in zip(canary.by_group[COMPARED], control.by_group[COMPARED], strict=True) if one and other
    )
    if clicks + control_clicks < _MIN_CLICKS or groups < _MIN_CLICK_GROUPS:
        return None
    kept = 1.0 - CLICKS_MARGIN
    difference = clicks / answers - kept * control_clicks / control_answers
    common = (clicks + control_clicks) / (answers + control_answers)
    variance = _variance(canary, common) + kept**2 * _variance(control, common)
    observations = effective_observations(control_answers, answers)
    if difference >= -boundary(observations, _CLICKS_RHO, _ALPHA_CLICKS) * math.sqrt(variance):
        return None
    return (
        f"clicks: {clicks} on {answers} answers ({clicks / answers:.2%}), in the control group {control_clicks} on "
        f"{control_answers} ({control_clicks / control_answers:.2%})"
    )


def _variance(arm: ArmCounts, common: float) -> float:
    """Variance of the arm's clicks per answer: that between groups of users, and no less than that of independent
    clicks at the common rate."""
    answers = arm[COMPARED]
    rate = arm[CLICKS] / answers
    squares = sum(
        (clicks - rate * group) ** 2 for clicks, group in zip(arm.by_group[CLICKS], arm.by_group[COMPARED], strict=True)
    )
    return max(squares * NUM_GROUPS / (NUM_GROUPS - 1) / answers**2, common / answers)


def _compared(count: int, answers: int, control: int, control_answers: int) -> str:
    return (
        f"{count} of {answers} ({count / answers:.1%}), in the control group {control} of {control_answers} "
        f"({control / control_answers:.1%})"
    )
