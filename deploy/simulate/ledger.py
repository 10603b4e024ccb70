"""What was shown and done, and what was to be expected of what was shown: the truth beside which a report is put."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Final

import numpy as np

from deploy.simulate.behaviour import PURCHASE_RATE, Action, expected_clicks
from deploy.simulate.world import Floats, World
from tandem.client import EventType, Recommendations

MAX_POSITIONS: Final = 100
"""Positions that the ledger tells apart; later ones count as the last."""


@dataclass(kw_only=True)
class Totals:
    """Counts of answers, and expectations of what was in them."""

    answers: int = 0
    shown: int = 0
    clicked: int = 0
    purchases: int = 0
    revenue: float = 0.0
    expected_clicks: float = 0.0
    """Sum of the probabilities with which the shown items are clicked."""
    expected_revenue: float = 0.0
    units: set[str] = field(default_factory=set)
    """Users, and sessions of anonymous ones: the units of an experiment."""

    def add(self, unit: str, clicks: Floats, revenue: float, actions: Sequence[Action]) -> None:
        """Counts one answer; `clicks` are the expected ones by position."""
        bought = [action.value for action in actions if action.type is EventType.PURCHASE]
        self.answers += 1
        self.shown += len(clicks)
        self.clicked += sum(action.type is EventType.CLICK for action in actions)
        self.purchases += len(bought)
        self.revenue += sum(bought)
        self.expected_clicks += float(clicks.sum())
        self.expected_revenue += revenue
        self.units.add(unit)

    @property
    def ctr(self) -> float:
        """Clicks per shown item, as they happened."""
        return self.clicked / self.shown if self.shown else 0.0

    @property
    def true_ctr(self) -> float:
        """Clicks per shown item to be expected."""
        return self.expected_clicks / self.shown if self.shown else 0.0

    def as_json(self) -> dict[str, Any]:
        """For JSON."""
        return {**asdict(self), "units": len(self.units), "ctr": self.ctr, "true_ctr": self.true_ctr}


@dataclass(kw_only=True)
class Ledger:
    """One run of visits."""

    visits: int = 0
    all: Totals = field(default_factory=Totals)
    arms: dict[tuple[str, str], Totals] = field(default_factory=dict)
    """By experiment and arm, of answers that the arm itself gave."""
    shown_at: Counter[int] = field(default_factory=Counter)
    """Shown items by position."""
    clicked_at: Counter[int] = field(default_factory=Counter)
    expected_at: Counter[int] = field(default_factory=Counter)
    """Expected clicks by position, in millionths."""
    alternatives: dict[str, float] = field(default_factory=lambda: {"best": 0.0, "popular": 0.0, "random": 0.0})
    """Clicks to be expected if other lists of the same length had been shown in place of all answers."""
    sources: Counter[str] = field(default_factory=Counter)
    models: Counter[str] = field(default_factory=Counter)
    degraded: Counter[str] = field(default_factory=Counter)
    """Reasons of degraded answers."""
    degraded_answers: int = 0
    not_exposed: int = 0
    """Answers of which an arm was named that had not made them."""
    unknown_items: int = 0
    """Shown items that the world does not know, which nobody clicks."""
    errors: Counter[str] = field(default_factory=Counter)
    """Calls without an answer, by the exception's name."""
    events: Counter[str] = field(default_factory=Counter)
    """Recorded events by type: what `RecordEvents` has confirmed."""
    events_lost: int = 0
    """Events that could not be recorded."""

    def add_answer(  # noqa: PLR0917  # one answer and what is known of it
        self,
        world: World,
        user: int,
        unit: str,
        answer: Recommendations,
        rows: Sequence[int],
        attraction: Floats,
        actions: Sequence[Action],
    ) -> None:
        """Counts an answer and what the user did with it; see `behaviour.react`."""
        clicks = expected_clicks(rows, attraction)
        known = np.asarray(rows, np.int64)
        revenue = float((clicks * (world.cart_rates(user) * world.prices)[known]).sum() * PURCHASE_RATE)
        self.all.add(unit, clicks, revenue, actions)
        for arm in answer.assignments:
            if arm.exposed:
                key = arm.experiment, arm.arm
                self.arms.setdefault(key, Totals()).add(unit, clicks, revenue, actions)
            else:
                self.not_exposed += 1
        for position, expected in enumerate(clicks.tolist()):
            self.shown_at[min(position, MAX_POSITIONS - 1)] += 1
            self.expected_at[min(position, MAX_POSITIONS - 1)] += round(1e6 * expected)
        for action in actions:
            if action.type is EventType.CLICK:
                self.clicked_at[min(action.position, MAX_POSITIONS - 1)] += 1
        self.sources[answer.source.value] += 1
        self.models[answer.model_version] += 1
        self.degraded.update(answer.degraded_reasons)
        self.degraded_answers += bool(answer.degraded_reasons)
        self.unknown_items += int((known < 0).sum())

    def true_lift(self, experiment: str, control: str, arm: str) -> float | None:
        """Relative difference of the click-through rates to be expected of what two arms have shown; None if control
        could earn none, or one of them has shown nothing."""
        shown, beside = self.arms.get((experiment, arm)), self.arms.get((experiment, control))
        if shown is None or beside is None or not beside.true_ctr:
            return None
        return shown.true_ctr / beside.true_ctr - 1

    def as_json(self) -> dict[str, Any]:
        """For JSON."""
        positions = sorted(self.shown_at)
        return {
            "visits": self.visits,
            "all": self.all.as_json(),
            "arms": [
                {"experiment": experiment, "arm": arm, **totals.as_json()}
                for (experiment, arm), totals in sorted(self.arms.items())
            ],
            "positions": [
                {
                    "position": position,
                    "shown": self.shown_at[position],
                    "clicked": self.clicked_at[position],
                    "expected_clicks": self.expected_at[position] / 1e6,
                }
                for position in positions
            ],
            "expected_clicks_of_other_lists": self.alternatives,
            "answers_by_source": dict(self.sources),
            "answers_by_model": dict(self.models),
            "degraded_answers": self.degraded_answers,
            "degraded_by_reason": dict(self.degraded),
            "answers_not_exposed": self.not_exposed,
            "unknown_items": self.unknown_items,
            "errors": dict(self.errors),
            "events": dict(self.events),
            "events_lost": self.events_lost,
        }
