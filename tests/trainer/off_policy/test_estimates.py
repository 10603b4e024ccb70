"""Estimators: exact by enumeration of every answer, and by hand; intervals by simulated logs with known truth."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest

from benchmarks.off_policy.simulator import NUM_POSITIONS, judged_orders, make_world, simulate, truth
from tandem.contract.exploration import position_probabilities
from trainer.off_policy.estimates import Estimates, effective_number, estimate
from trainer.off_policy.examination import estimate_examination
from trainer.off_policy.judged import ITEM_POSITION, POSITION_BASED, ClickModel, JudgedLog
from trainer.off_policy.verdict import BETTER, CANNOT_SAY, NO_DIFFERENCE, judge_support
from trainer.off_policy.weighing import Answers, Orders, judge

EXPLORATION = 0.3
POOL = 4
SHOWN = 2


def every_answer() -> Iterator[tuple[tuple[int, ...], float]]:
    """Every answer of two of four candidates as ranks, and its probability by the definition of exploration."""
    for ranks in itertools.permutations(range(POOL), SHOWN):
        probability, left = 1.0, list(range(POOL))
        for rank in ranks:
            probability *= EXPLORATION / len(left) + (1.0 - EXPLORATION) * (rank == left[0])
            left.remove(rank)
        yield ranks, probability


def log_of(answers: list[tuple[int, ...]], rewards: list[list[float]], *, exploration: float = EXPLORATION) -> Answers:
    """A log of one answer for each user, whose pool is the items 0, 1, 2, 3."""
    ranks = np.array(answers, dtype=np.int64)
    return Answers(
        num_items=POOL,
        users=np.arange(len(answers)),
        num_candidates=np.full(len(answers), POOL),
        exploration=np.full(len(answers), exploration),
        slot_answers=np.repeat(np.arange(len(answers)), SHOWN),
        slot_positions=np.tile(np.arange(SHOWN), len(answers)),
        slot_items=ranks.ravel(),
        slot_ranks=ranks.ravel(),
        rewards=np.array(rewards, dtype=np.float64).ravel(),
    )


def orders_of(order: list[int], num_answers: int, exploration: float = 0.0) -> Orders:
    return Orders(
        offsets=np.arange(num_answers + 1) * len(order), items=np.tile(order, num_answers), exploration=exploration
    )


@pytest.mark.parametrize("exploration", [0.0, 0.5])
def test_inverse_propensities_are_without_bias(exploration: float) -> None:
    """The expectation over every answer that exploration makes is the truth, in the item-position model."""
    appeal = np.array([[0.1, 0.7], [0.5, 0.2], [0.9, 0.3], [0.4, 0.6]])  # of items at positions, in no simple relation
    order = [2, 0, 3, 1]
    ranks, probabilities = zip(*every_answer(), strict=True)
    rewards = [[float(appeal[rank, position]) for position, rank in enumerate(answer)] for answer in ranks]
    orders = orders_of(order, len(ranks), exploration)
    judged = judge(log_of(list(ranks), rewards), orders, num_positions=SHOWN, click_model=ITEM_POSITION)
    by_answer = (judged.weights * judged.rewards).reshape(-1, SHOWN).sum(axis=1)
    table = position_probabilities(POOL, POOL, exploration)[:POOL, :SHOWN]
    assert by_answer @ np.array(probabilities) == pytest.approx((table * appeal[order]).sum())


def test_position_based_weights_are_without_bias_where_positions_are_known() -> None:
    appeal, shares = np.array([0.1, 0.5, 0.9, 0.4]), np.array([1.0, 0.25])
    ranks, probabilities = zip(*every_answer(), strict=True)
    # As many rewards as are expected make the estimate of the shares exact.
    counts = np.round(np.array(probabilities) * 1e4).astype(int)
    answers = [answer for answer, count in zip(ranks, counts, strict=True) for _ in range(count)]
    rewards = [[float(appeal[rank] * shares[position]) for position, rank in enumerate(answer)] for answer in answers]
    judged = judge(log_of(answers, rewards), orders_of([2, 3], len(answers)), num_positions=SHOWN)
    np.testing.assert_allclose(judged.shares, shares, rtol=1e-6)
    estimates = estimate(judged, max_weight=math.inf)
    for name in ("ips", "snips", "dr"):
        assert estimates.by_name()[name].value == pytest.approx(0.9 + 0.25 * 0.4, rel=0.02), name


def by_hand(weights: list[float], rewards: list[float], predicted: list[float]) -> JudgedLog:
    """Two users with two answers of one slot each."""
    return JudgedLog(
        num_users=2,
        answer_users=np.array([0, 0, 1, 1]),
        shares=np.ones(1),
        target_mass=np.ones((4, 1)),
        predicted=np.array([0.5, 0.5, 0.25, 0.25]),
        slot_answers=np.arange(4),
        slot_positions=np.zeros(4, dtype=np.int64),
        weights=np.array(weights),
        rewards=np.array(rewards),
        slot_predicted=np.array(predicted),
    )


def test_estimates_by_hand() -> None:
    log = by_hand([2.0, 0.0, 1.0, 3.0], [1.0, 1.0, 0.0, 1.0], [0.5, 0.5, 0.5, 0.5])
    estimates = estimate(log, max_weight=10.0)
    assert estimates.logged.value == 3 / 4
    assert estimates.ips.value == (2 + 3) / 4
    assert estimates.snips.value == 5 / 6
    assert estimates.dr.value == 1.5 / 4 + (2 * 0.5 - 0.5 + 3 * 0.5) / 4
    assert estimates.difference.value == estimates.dr.value - 0.75
    # Each user has two answers, so a user's influence is half its mean's distance from the mean; n / (n - 1) is 2.
    assert estimates.ips.standard_error == pytest.approx(math.sqrt(2 * 2 * (0.5 * 0.25) ** 2))
    support = estimates.support
    assert support.effective_users == pytest.approx(6**2 / (2**2 + 4**2))
    assert support.effective_rewards == pytest.approx(5**2 / (2**2 + 3**2))
    assert (support.supported.value, support.num_matching_slots, support.num_clipped_slots) == (1.5, 3, 0)


def test_clipping_is_told() -> None:
    log = by_hand([2.0, 0.0, 1.0, 5.0], [1.0, 1.0, 0.0, 1.0], [0.0] * 4)
    estimates = estimate(log, max_weight=2.0)
    assert estimates.ips.value == (2 + 2) / 4
    assert (estimates.support.num_clipped_slots, estimates.support.clipped_share) == (1, pytest.approx(3 / 8))


def test_the_effective_number_of_equal_weights_is_their_number() -> None:
    assert effective_number(np.full(7, 0.3)) == pytest.approx(7)
    assert effective_number(np.array([5.0, 0.0])) == 1.0
    assert effective_number(np.zeros(3)) == 0.0


def test_a_log_without_rewards_has_equal_positions() -> None:
    nothing = np.zeros(6)
    shares, influence = estimate_examination(
        np.arange(6) % 3, np.arange(6) % 2, nothing, np.arange(6), num_users=6, num_positions=2
    )
    assert shares.tolist() == [1.0, 1.0]
    assert not influence.any()


def run(seed: int, *, num_users: int, exploration: float, click_model: ClickModel = POSITION_BASED) -> Estimates:
    world = make_world(1, num_items=40)
    answers, tastes = simulate(world, num_users=num_users, exploration=exploration, seed=seed)
    judged = judge(answers, judged_orders(world, tastes, 0.0), num_positions=NUM_POSITIONS, click_model=click_model)
    return estimate(judged, max_weight=len(answers.rewards) / 50)


def test_the_interval_covers_the_truth() -> None:
    """`python -m benchmarks.off_policy` does so for many logs; these few find a gross mistake."""
    world = make_world(1, num_items=40)
    logged = truth(world, world.logged_orders, 0.5)
    expected = {
        **dict.fromkeys(("ips", "snips", "dr"), truth(world, world.judged_orders, 0.0)),
        "logged": logged,
        "difference": truth(world, world.judged_orders, 0.0) - logged,
    }
    results = [run(seed, num_users=600, exploration=0.5) for seed in range(20)]
    assert all(judge_support(result).decision != CANNOT_SAY for result in results)
    for name, value in expected.items():
        estimates = [result.by_name()[name] for result in results]
        num_covered = sum(one.low <= value <= one.high for one in estimates)
        assert num_covered >= 15, f"{name}: with 95 % coverage, fewer happen once in thirty thousand times"
        errors = [(one.value - value) / one.standard_error for one in estimates]
        assert abs(np.mean(errors)) < 4 / math.sqrt(len(errors)) + 0.3, name


def test_the_weaker_assumption_has_the_wider_interval() -> None:
    stronger = run(3, num_users=300, exploration=0.2)
    weaker = run(3, num_users=300, exploration=0.2, click_model=ITEM_POSITION)
    assert weaker.dr.standard_error > 1.5 * stronger.dr.standard_error


def test_a_short_log_cannot_tell() -> None:
    verdict = judge_support(run(1, num_users=20, exploration=0.02))
    assert verdict.decision == CANNOT_SAY
    assert "users with equal weights, at least 100 are needed: log longer, or explore more" in verdict.reasons[0]


def test_a_policy_that_shows_what_was_never_logged_cannot_be_judged() -> None:
    """The judged policy shows items that are in no logged pool."""
    world = make_world(1, num_items=40)
    answers, tastes = simulate(world, num_users=400, exploration=0.3, seed=1)
    answers = replace(answers, num_items=80)
    orders = judged_orders(world, tastes, 0.0)
    shown = np.tile(np.arange(40) < 5, len(tastes))  # five places of ten hold new items
    orders = replace(orders, items=np.where(shown, orders.items + 40, orders.items))
    verdict = judge_support(estimate(judge(answers, orders, num_positions=NUM_POSITIONS), max_weight=1e4))
    assert verdict.decision == CANNOT_SAY
    assert any("of what would be shown, at least 98% are needed" in reason for reason in verdict.reasons)


def test_a_much_better_policy_is_found() -> None:
    world = make_world(1, num_items=20)
    best = replace(world, judged_orders=np.argsort(-world.click_rates, axis=1))
    answers, tastes = simulate(world, num_users=700, exploration=0.5, seed=1)
    judged = judge(answers, judged_orders(best, tastes, 0.0), num_positions=NUM_POSITIONS)
    assert judge_support(estimate(judged, max_weight=1e4)).decision == BETTER
    same = judge(
        answers, judged_orders(replace(world, judged_orders=world.logged_orders), tastes, 0.5), num_positions=10
    )
    assert judge_support(estimate(same, max_weight=1e4)).decision == NO_DIFFERENCE
