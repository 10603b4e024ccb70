"""What a bundle and a policy would have earned in the place of those that answered: from files to a verdict."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from tandem.contract.replayed import LoggedRequest, ReplayedOrders
from tandem.contract.store import UserState
from trainer.core.errors import DataError
from trainer.dataset.dataset import Dataset
from trainer.off_policy import logged_answers
from trainer.off_policy.estimates import Estimates, estimate
from trainer.off_policy.judged import ClickModel, Ints
from trainer.off_policy.logged_answers import Log, LoggedAnswer, Rewards
from trainer.off_policy.verdict import CANNOT_SAY, Verdict, judge_support
from trainer.off_policy.weighing import Orders, judge
from trainer.release.serving_engine import order_requests

SLOTS_PER_WEIGHT: Final = 50
"""Weights above a fiftieth of the number of slots are clipped by default: such a slot occurs less than fifty times, so
that single ones would decide."""
_MIN_USERS: Final = 2


@dataclass(frozen=True, kw_only=True)
class Judged:
    """The policy that is judged."""

    bundle: Path
    policies: Path | None
    """None: the built-in policy."""
    scenario: str
    """Empty: the default policy."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """What is counted, and how."""

    event_type: str = "click"
    logged_scenario: str = ""
    num_positions: int = 10
    max_answers: int = 100_000
    max_weight: float | None = None
    """None: a fiftieth of the number of slots."""
    click_model: ClickModel = "position-based"


@dataclass(frozen=True, kw_only=True)
class Result:
    """The verdict, and all that it rests on."""

    log: Log
    rewards: Rewards
    options: Options
    verdict: Verdict
    orders: ReplayedOrders | None = None
    """None if the log ruled out an answer before the policy was asked."""
    estimates: Estimates | None = None
    """None likewise."""
    num_without_history: int = 0
    """Answers to users who had no event yet in the prepared data."""
    num_unknown_items: int = 0
    """Slots with an item that the judged policy has in no pool."""
    versions: Counter[str]
    """Judged answers by the model version that made them."""


def replay_log(
    impressions: Sequence[Path], events: Sequence[Path], dataset: Dataset, judged: Judged, options: Options
) -> Result:
    """Judges a policy by a log. `dataset` holds the users' histories up to the log and within it.

    Raises DataError for files that cannot be read, GateError if the serving engine cannot be run.
    """
    log = logged_answers.read_log(
        impressions,
        scenario=options.logged_scenario,
        num_positions=options.num_positions,
        max_answers=options.max_answers,
    )
    rewards = logged_answers.read_rewards(events, log.answers, options.event_type)
    versions = Counter(answer.model_version for answer in log.answers)
    if reasons := _missing(log, rewards, options):
        verdict = Verdict(decision=CANNOT_SAY, reasons=tuple(reasons))
        return Result(log=log, rewards=rewards, options=options, verdict=verdict, versions=versions)
    states, num_without_history = _states(dataset, log.answers)
    requests = [
        LoggedRequest(user_id=answer.user_id, state=state, context=answer.context, num_items=len(answer.item_ids))
        for answer, state in zip(log.answers, states, strict=True)
    ]
    with tempfile.TemporaryDirectory(prefix="tandem-replay-log-") as scratch:
        orders = order_requests(
            judged.bundle, requests, policies=judged.policies, scenario=judged.scenario, scratch=Path(scratch)
        )
    answers = logged_answers.as_arrays(log.answers, rewards, orders.item_ids)
    judged_log = judge(
        answers,
        Orders(offsets=orders.offsets, items=orders.items, exploration=orders.exploration),
        num_positions=_num_positions(answers.slot_positions),
        click_model=options.click_model,
    )
    max_weight = options.max_weight or max(1.0, len(answers.rewards) / SLOTS_PER_WEIGHT)
    estimates = estimate(judged_log, max_weight=max_weight)
    return Result(
        log=log,
        rewards=rewards,
        options=options,
        verdict=judge_support(estimates),
        orders=orders,
        estimates=estimates,
        num_without_history=num_without_history,
        num_unknown_items=int(np.count_nonzero(answers.slot_items >= len(orders.item_ids))),
        versions=versions,
    )


def _missing(log: Log, rewards: Rewards, options: Options) -> list[str]:
    """Why the log cannot tell anything, whatever the policy."""
    if not log.answers:
        if log.left_out[logged_answers.NOT_EXPLORED]:
            return [
                "no answer of the log explored: what is shown with probability 1 says nothing about other items. Set "
                "`exploration` in the policy of the scenario"
            ]
        return [f"the log has no answer that can be judged ({log.num_read:,} read)"]
    if len({answer.user_id for answer in log.answers}) < _MIN_USERS:
        return ["the log has answers to one user only, and users are the unit"]
    if not rewards.num_events:
        return [
            f"no event of type {options.event_type} names an answer and an item of the log: events need the "
            "`request_id` of the answer that showed the item"
        ]
    return []


def _states(dataset: Dataset, answers: Sequence[LoggedAnswer]) -> tuple[list[UserState], int]:
    """The user's state just before each answer, and the number of answers to users without any event then.

    Raises DataError for data without times.
    """
    if len(dataset.event_times) and not dataset.event_times.any():
        raise DataError("the prepared data have no times, so nobody knows what was known when an answer was made")
    row_of = {user_id: row for row, user_id in enumerate(dataset.user_ids)}
    states, num_without_history = [], 0
    for answer in answers:
        row = row_of.get(answer.user_id)
        num_events = 0 if row is None else _num_events_before(dataset, row, answer.timestamp)
        num_without_history += num_events == 0
        states.append(UserState() if row is None else dataset.user_state(row, num_events))
    return states, num_without_history


def _num_events_before(dataset: Dataset, user: int, timestamp: int) -> int:
    start, stop = dataset.offsets[user], dataset.offsets[user + 1]
    return int(np.searchsorted(dataset.event_times[start:stop], timestamp))


def _num_positions(positions: Ints) -> int:
    return int(positions.max()) + 1
