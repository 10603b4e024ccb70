"""Simulated experiments: users who arrive over days, come back, differ in taste and activity, click and buy."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from feature_sync.statistics.plan import MICROSECONDS_PER_DAY, STANDARD_METRICS, ExperimentPlan, Metric

GOALS = ("ctr", "conversion", "revenue_per_user")


@dataclass(frozen=True, kw_only=True)
class Shop:
    """What is simulated; two arms, `control` and `new`."""

    num_users: int = 2_000
    """Who have come by the last look; the same number comes every day."""
    days: int = 20
    """A look is taken at the end of each."""
    arm_share: float = 0.5
    lift: float = 0.0
    """Relative change of the probability of a click or of a purchase in the new arm."""
    click_rate: float = 0.08
    buy_rate: float = 0.004
    """Probability of a purchase per user and day."""


def metrics(names: tuple[str, ...] = GOALS) -> tuple[Metric, ...]:
    """The standard goals of these names."""
    return tuple(metric for metric in STANDARD_METRICS if metric.name in names)


def plan(shop: Shop, chosen: tuple[Metric, ...], *, day: int) -> ExperimentPlan:
    """The experiment's plan at the end of a day."""
    return ExperimentPlan(
        experiment="simulated",
        control="control",
        shares={"control": 1 - shop.arm_share, "new": shop.arm_share},
        metrics=chosen,
        started=0,
        until=day * MICROSECONDS_PER_DAY,
        planned_users=shop.num_users,
    )


def looks(shop: Shop, generator: np.random.Generator) -> Iterator[tuple[int, pd.DataFrame]]:
    """One experiment: (day, table of the users so far) at the end of each day."""
    users, days = shop.num_users, shop.days
    arrived = np.arange(users) * days // users
    new = generator.random(users) < shop.arm_share
    factor = np.where(new, 1 + shop.lift, 1.0)
    activity = generator.gamma(2.0, 1.0, users)
    taste = shop.click_rate * 2 * generator.beta(4, 4, users)
    wealth = generator.lognormal(3.0, 0.5, users)
    here = np.arange(days) >= arrived[:, None]  # (users, days)
    impressions = generator.poisson(3 * activity[:, None] * here)
    clicks = generator.binomial(impressions, np.minimum(taste * factor, 1)[:, None])
    bought = generator.random((users, days)) < (shop.buy_rate * factor)[:, None] * here
    spent = bought * wealth[:, None] * generator.lognormal(0.0, 1.0, (users, days))
    shown_before = generator.poisson(20 * activity)
    fixed = {
        "user_id": np.array([f"user-{number}" for number in range(users)], dtype=object),
        "arm": np.where(new, "new", "control").astype(object),
        "first_exposed": arrived.astype(np.int64) * MICROSECONDS_PER_DAY,
        "impressions_before": shown_before,
        "clicks_before": generator.binomial(shown_before, taste),
        "converted_before": (generator.random(users) < shop.buy_rate * days).astype(np.int64),
        "revenue_before": wealth * (generator.random(users) < shop.buy_rate * days),
    }
    for day in range(1, days + 1):
        so_far: dict[str, NDArray[np.generic]] = {
            "impressions": impressions[:, :day].sum(axis=1),
            "clicks": clicks[:, :day].sum(axis=1),
            "converted": bought[:, :day].any(axis=1).astype(np.int64),
            "revenue": spent[:, :day].sum(axis=1),
        }
        yield day, pd.DataFrame({**fixed, **so_far})[arrived < day]
