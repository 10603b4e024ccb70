"""What is asked: the arms of an experiment, its metrics, and the risks that the team accepts.

The table that `analyse.analyse` reads beside a plan has one row for each (user, arm), as pandas or Arrow, with columns

- `user_id` string, never empty: the unit of analysis is the user (for anonymous callers the sticky key).
- `arm` string: the arm that the user was exposed to; a user with rows of two arms is left out and counted.
- `first_exposed` int64, optional: microseconds since 1970 of the user's first exposure; days left are computed from it.
- the columns that the metrics name: numbers, totals of the user since the start of the experiment. A user without any
  clicks has 0. What is no finite number leaves the user out of that metric, and is counted.
- the columns of covariates: totals of the same user *before* the first exposure. A missing one says that nothing is
  known of the user from before.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final

from feature_sync.core.errors import ExperimentError

USER_ID: Final = "user_id"
ARM: Final = "arm"
FIRST_EXPOSED: Final = "first_exposed"

MICROSECONDS_PER_DAY: Final = 86_400_000_000


class Role(StrEnum):
    """What a metric may decide."""

    GOAL = "goal"
    """A lift ships the arm, a loss stops it; goals share the risk of a false verdict (`ExperimentPlan.alpha`)."""
    GUARDRAIL = "guardrail"
    """Must be shown not to be worse than control by more than a margin before the arm ships."""
    WATCHED = "watched"
    """Reported, decides nothing."""


class Better(StrEnum):
    """The direction in which a metric is good."""

    HIGHER = "higher"
    LOWER = "lower"


@dataclass(frozen=True, kw_only=True)
class Metric:
    """A mean per user, or a ratio of two means: the sum of one column over the sum of another."""

    name: str
    numerator: str
    """Column of the table."""
    denominator: str = ""
    """Column of the table, never negative; empty: the metric is the numerator's mean per user."""
    covariate: str = ""
    """The numerator's column before the experiment, for CUPED; empty: no adjustment."""
    covariate_denominator: str = ""
    """The denominator's column before the experiment."""
    better: Better = Better.HIGHER
    role: Role = Role.GOAL
    minimum_lift: float = 0.05
    """For goals: the smallest relative change worth finding. The required number of users is computed for it, and an
    arm whose goals are all shown to gain less is stopped."""
    margin: float = 0.05
    """For guardrails: the loss that is accepted."""
    margin_is_relative: bool = True
    """Whether `margin` is a share of control's mean or has the metric's own unit. Rates that are almost 0 need the
    latter."""
    cap_quantile: float | None = None
    """Outliers: a user's value (of ratios: numerator over denominator) beyond this quantile of the values other than 0,
    in all arms together, counts as the quantile; negative values alike, on their side. None: nothing is capped."""

    def __post_init__(self) -> None:
        """Raises ExperimentError for a metric that cannot be computed."""
        if not self.name or not self.numerator:
            raise ExperimentError(f"metric {self.name!r}: name and numerator must not be empty")
        if self.covariate_denominator and not self.covariate:
            raise ExperimentError(f"metric {self.name}: covariate_denominator is given without covariate")
        if self.covariate and self.covariate in {self.numerator, self.denominator}:
            raise ExperimentError(f"metric {self.name}: covariate {self.covariate!r} is the metric's own column")
        if self.covariate and bool(self.denominator) != bool(self.covariate_denominator):
            raise ExperimentError(
                f"metric {self.name}: denominator and covariate_denominator must be given together, or neither"
            )
        _check(f"metric {self.name}: minimum_lift", self.minimum_lift, above=1e-6, below=1e6)
        _check(f"metric {self.name}: margin", self.margin, above=0, below=math.inf)
        if self.cap_quantile is not None:
            _check(f"metric {self.name}: cap_quantile", self.cap_quantile, above=0.5, below=1)

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns of the table that the metric reads."""
        names = (self.numerator, self.denominator, self.covariate, self.covariate_denominator)
        return tuple(name for name in names if name)


@dataclass(frozen=True, kw_only=True)
class ExperimentPlan:
    """An experiment as it was set up. Nothing here may be chosen after a look at its results."""

    experiment: str
    control: str
    """Name of the arm that all others are compared with."""
    shares: Mapping[str, float]
    """Expected share of users for each arm, control included. Only their ratios count, they need not add up to 1."""
    metrics: tuple[Metric, ...]
    started: int
    """Microseconds since 1970."""
    until: int
    """Microseconds since 1970, exclusive: the end of what the table contains."""
    alpha: float = 0.05
    """Risk that the verdict ever names a goal better or worse in any arm although none differs."""
    power: float = 0.8
    """Probability of finding `Metric.minimum_lift`, for the required number of users."""
    planned_users: int = 20_000
    """Users of control and one other arm together where the anytime-valid interval is narrowest. Any number is valid;
    one that is 10 times too small widens the interval by 7 %, one that is 10 times too large by a quarter."""
    min_days: float = 7.0
    """No arm ships before, so that every day of the week has counted."""
    max_days: float = 90.0
    """A goal that cannot be decided by then, at the rate of new users, is not waited for."""
    min_users: int = 100
    """Users of each arm below which nothing is said: intervals rest on the central limit theorem."""
    min_users_with_value: int = 10
    """Users of the smaller arm that must be expected to differ from the most common value (mostly 0), were the arms
    alike; below, nothing is said about the metric, for the same reason."""
    sample_ratio_warn: float = 0.01
    """P-value of the shares of users below which the verdict warns."""
    sample_ratio_invalid: float = 0.001
    """P-value below which assignment or logging is broken, and no lift is believed."""
    max_share_left_out: float = 0.01
    """Share of users in two arms, or without a usable number in a metric, above which nothing is said: those who are
    left out may be those whom the arm changed."""

    def __post_init__(self) -> None:
        """Raises ExperimentError that names the field."""
        where = f"experiment {self.experiment}"
        if self.control not in self.shares:
            raise ExperimentError(f"{where}: control {self.control!r} is not among the arms {', '.join(self.shares)}")
        if len(self.shares) < 2:
            raise ExperimentError(f"{where}: shares names no arm beside control")
        for arm, share in self.shares.items():
            _check(f"{where}: share of arm {arm}", share, above=1e-6, below=1e6)
        names = [metric.name for metric in self.metrics]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ExperimentError(f"{where}: metrics named twice: {', '.join(twice)}")
        if not any(metric.role is Role.GOAL for metric in self.metrics):
            raise ExperimentError(f"{where}: metrics has no goal, so that nothing could decide")
        if self.until <= self.started:
            raise ExperimentError(f"{where}: until ({self.until}) must be after started ({self.started})")
        for name in ("alpha", "sample_ratio_warn", "sample_ratio_invalid"):
            _check(f"{where}: {name}", getattr(self, name), above=1e-6, below=0.5)
        for name in ("min_days", "min_users_with_value", "max_share_left_out"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ExperimentError(f"{where}: {name} is {getattr(self, name)}, must be 0 or more")
        if self.sample_ratio_invalid > self.sample_ratio_warn:
            raise ExperimentError(f"{where}: sample_ratio_invalid must not exceed sample_ratio_warn")
        _check(f"{where}: power", self.power, above=0.05, below=1)
        _check(f"{where}: max_days", self.max_days, above=self.min_days, below=math.inf)
        _check(f"{where}: planned_users", self.planned_users, above=3, below=1e12)
        _check(f"{where}: min_users", self.min_users, above=1, below=math.inf)

    @property
    def days(self) -> float:
        """How long the experiment has run."""
        return (self.until - self.started) / MICROSECONDS_PER_DAY


def _check(what: str, value: float, *, above: float, below: float) -> None:
    if not above < value < below:
        raise ExperimentError(f"{what} is {value}, must be above {above:g} and below {below:g}")


STANDARD_METRICS: Final = (
    Metric(
        name="ctr",
        numerator="clicks",
        denominator="impressions",
        covariate="clicks_before",
        covariate_denominator="impressions_before",
    ),
    Metric(name="conversion", numerator="converted", covariate="converted_before"),
    Metric(name="revenue_per_user", numerator="revenue", covariate="revenue_before", cap_quantile=0.99),
    Metric(
        name="dwell_seconds_per_user", numerator="dwell_seconds", covariate="dwell_seconds_before", cap_quantile=0.99
    ),
    Metric(
        name="add_to_cart",
        numerator="add_to_carts",
        denominator="impressions",
        covariate="add_to_carts_before",
        covariate_denominator="impressions_before",
    ),
    Metric(
        name="latency_ms",
        numerator="latency_ms",
        denominator="answers",
        better=Better.LOWER,
        role=Role.GUARDRAIL,
        margin=0.05,
        cap_quantile=0.99,
    ),
    Metric(
        name="slow_share",
        numerator="slow_answers",
        denominator="answers",
        better=Better.LOWER,
        role=Role.GUARDRAIL,
        margin=0.01,
        margin_is_relative=False,
    ),
    Metric(
        name="error_share",
        numerator="errors",
        denominator="requests",
        better=Better.LOWER,
        role=Role.GUARDRAIL,
        margin=0.01,
        margin_is_relative=False,
    ),
    Metric(
        name="degraded_share",
        numerator="degraded_answers",
        denominator="answers",
        better=Better.LOWER,
        role=Role.GUARDRAIL,
        margin=0.01,
        margin_is_relative=False,
    ),
    Metric(
        name="long_tail_share",
        numerator="tail_impressions",
        denominator="impressions",
        role=Role.GUARDRAIL,
        margin=0.1,
    ),
)
"""The usual metrics of a recommender. `impressions` counts shown items, `answers` answers, `requests` answers and
errors, `converted` is 1 for a user with a purchase, `latency_ms` adds up the answers' latencies, `slow_answers`
counts those above a limit, `tail_impressions` counts the shown items outside of the head: the most shown items, which
make up half of what a user is shown on average over the arms. Its share says how widely an arm spreads over the
catalogue, and unlike different items per shown item, it does not fall because users come more often."""


def standard_metrics(columns: Collection[str]) -> tuple[Metric, ...]:
    """The standard metrics that a table with these columns has; without the columns of its covariate, a metric is not
    adjusted."""
    found = []
    for metric in STANDARD_METRICS:
        if metric.numerator not in columns or (metric.denominator and metric.denominator not in columns):
            continue
        before = {metric.covariate, metric.covariate_denominator} - {""}
        found.append(metric if before <= set(columns) else replace(metric, covariate="", covariate_denominator=""))
    return tuple(found)
