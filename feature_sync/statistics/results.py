"""What is answered: plain frozen data that JSON can hold, without NaN and infinity."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

from feature_sync.statistics.plan import Better, Role


class Decision(StrEnum):
    """What to do with an arm."""

    SHIP = "ship"
    STOP = "stop"
    GO_ON = "go on"
    CANNOT_SAY = "cannot say"


class Outcome(StrEnum):
    """What one metric says of one arm."""

    BETTER = "better"
    WORSE = "worse"
    OPEN = "open"
    """The interval holds 0: no difference is shown."""
    HELD = "held"
    """A guardrail: a loss beyond the margin is ruled out."""
    BROKEN = "broken"
    """A guardrail: the loss is beyond the margin."""
    UNPROVEN = "unproven"
    """A guardrail: the interval holds the margin."""
    CANNOT_SAY = "cannot say"


class RatioStatus(StrEnum):
    """Whether users arrived in the arms as planned."""

    OK = "ok"
    WARN = "warn"
    INVALID = "invalid"


@dataclass(frozen=True, kw_only=True)
class Interval:
    """Limits of a difference."""

    lower: float
    upper: float


@dataclass(frozen=True, kw_only=True)
class Lift:
    """Arm minus control, in the metric's unit, and as a share of control's mean."""

    absolute: float
    anytime: Interval
    """Contains the true difference at every look together, with probability 1 - alpha: look and stop when you like."""
    anytime_p: float
    fixed: Interval
    """Contains it with probability 1 - alpha at one look chosen in advance; narrower, and wrong for those who peek."""
    fixed_p: float
    relative: float | None
    """None where control's mean may be 0 or less: a share of it has no meaning."""
    anytime_relative: Interval | None
    fixed_relative: Interval | None
    """None also where the arm's mean is not positive: it is an interval of the ratio's logarithm."""


@dataclass(frozen=True, kw_only=True)
class MetricResult:
    """One metric of one arm against control."""

    metric: str
    role: Role
    better: Better
    outcome: Outcome
    because: str
    """Words for a person."""
    control_mean: float | None
    """With outliers capped. None: no user, or no denominator."""
    arm_mean: float | None
    unadjusted: Lift | None
    """None: cannot be computed, `because` says why."""
    adjusted: Lift | None
    """By CUPED; None: `not_adjusted` says why."""
    not_adjusted: str
    variance_kept: float | None
    """Variance of the adjusted difference over that of the unadjusted one: 0.6 means 40 % fewer users are needed."""
    corrected_anytime_p: float | None
    """Of goals: by Holm over all goals of all arms; the outcome follows from it."""
    corrected_fixed_p: float | None
    uncapped_absolute: float | None
    """The unadjusted difference with outliers as they are."""
    users_capped: int
    users_left_out: Mapping[str, int]
    """Users without a usable number, by arm."""
    required_users: int | None
    """Users of control and arm together that find `minimum_lift` (goals) or rule out the margin (guardrails) with the
    planned power, by the anytime-valid interval, at the variance seen so far; None: cannot be computed, or the metric
    is only watched."""
    required_users_fixed: int | None
    """The same for one look at the end."""

    @property
    def lift(self) -> Lift | None:
        """The lift that decides: adjusted where it could be."""
        return self.adjusted or self.unadjusted


@dataclass(frozen=True, kw_only=True)
class SampleRatio:
    """Whether the users of an arm and of control are as many as the plan's shares say."""

    expected_share: float
    """Of the arm, among the users of arm and control."""
    observed_share: float | None
    p_value: float | None
    status: RatioStatus


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What to do, in words."""

    decision: Decision
    because: str
    cautions: tuple[str, ...]
    """What a reader must know beside it."""

    @property
    def text(self) -> str:
        """One sentence: the decision and its reason."""
        return f"{self.decision}, because {self.because}"


@dataclass(frozen=True, kw_only=True)
class ArmResult:
    """One arm against control."""

    arm: str
    users: int
    control_users: int
    sample_ratio: SampleRatio
    metrics: tuple[MetricResult, ...]
    required_users: int | None
    """Of control and arm together: enough for every goal and guardrail."""
    days_left: float | None
    """Until `required_users`, at the rate of new users in the last 7 days; None: cannot be computed."""
    verdict: Verdict


@dataclass(frozen=True, kw_only=True)
class ExperimentResult:
    """All arms against control."""

    experiment: str
    control: str
    alpha: float
    days: float
    users: int
    """Users in exactly one arm of the plan."""
    users_in_two_arms: int
    """Left out."""
    users_of_other_arms: Mapping[str, int]
    """Left out: arms that the plan does not name."""
    arms: tuple[ArmResult, ...]

    def as_json(self) -> dict[str, Any]:
        """The result as `json.dumps` takes it, with the verdict's sentence beside each verdict."""
        document = asdict(self)
        for arm, written in zip(self.arms, document["arms"], strict=True):
            written["verdict"]["text"] = arm.verdict.text
        return document
