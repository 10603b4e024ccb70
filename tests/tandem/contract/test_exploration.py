"""Exploration: the propensities are the probabilities, by enumeration and by drawing."""

from __future__ import annotations

import itertools
import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tandem.contract.exploration import explore, position_probabilities, rng_for

Shown = tuple[int, ...]


def answer_probabilities(order: Shown, num_items: int, exploration: float) -> Counter[Shown]:
    """Probability of every answer, from every decision at every position."""
    if num_items == 0 or not order:
        return Counter({(): 1.0})  # type: ignore[dict-item]
    answers: Counter[Shown] = Counter()
    decisions = [(order[0], 1.0 - exploration), *((item, exploration / len(order)) for item in order)]
    for item, probability in decisions:
        remaining = tuple(candidate for candidate in order if candidate != item)
        for answer, conditional_probability in answer_probabilities(remaining, num_items - 1, exploration).items():
            answers[item, *answer] += probability * conditional_probability  # type: ignore[assignment]
    return answers


def by_definition(order: Shown, shown: Shown, exploration: float) -> list[float]:
    """Conditional probability at each position, from the probabilities of whole answers."""
    answers = answer_probabilities(order, len(shown), exploration)

    def prefix_probability(length: int) -> float:
        return sum(share for answer, share in answers.items() if answer[:length] == shown[:length])

    return [prefix_probability(position + 1) / prefix_probability(position) for position in range(len(shown))]


@given(
    order=st.integers(0, 5).flatmap(lambda num: st.permutations(range(num))),
    num_items=st.integers(0, 4),
    exploration=st.sampled_from([0.05, 0.25, 0.5, 1.0]),
    seed=st.integers(0, 2**32),
)
def test_propensities_are_exact(order: list[int], num_items: int, exploration: float, seed: int) -> None:
    shown, propensities = explore(
        np.array(order, dtype=np.int64),
        num_items=num_items,
        exploration=exploration,
        rng=np.random.default_rng(seed),
    )
    assert shown.dtype == np.int64
    assert propensities.dtype == np.float32
    assert len(shown) == len(propensities) == min(num_items, len(order))
    assert len(set(shown.tolist())) == len(shown)
    assert set(shown.tolist()) <= set(order)
    assert propensities.tolist() == pytest.approx(
        by_definition(tuple(order), tuple(shown.tolist()), exploration), rel=1e-5
    )


@pytest.mark.parametrize(("num", "num_items", "exploration"), [(4, 3, 0.3), (5, 2, 0.5), (3, 3, 0.05)])
def test_answers_come_as_often_as_their_propensities_say(num: int, num_items: int, exploration: float) -> None:
    num_draws = 20_000
    order = np.arange(num)
    rng = np.random.default_rng(20)
    counts: Counter[Shown] = Counter()
    told: dict[Shown, float] = {}
    for _ in range(num_draws):
        shown, propensities = explore(order, num_items=num_items, exploration=exploration, rng=rng)
        answer = tuple(shown.tolist())
        counts[answer] += 1
        told[answer] = math.prod(propensities.tolist())
    expected = answer_probabilities(tuple(range(num)), num_items, exploration)
    assert set(expected) == set(itertools.permutations(range(num), num_items))
    assert told == pytest.approx({answer: expected[answer] for answer in told}, rel=1e-5)
    chi_square = sum(
        (counts[answer] - num_draws * share) ** 2 / (num_draws * share) for answer, share in expected.items()
    )
    degrees = len(expected) - 1
    # Four standard deviations above the mean of the chi-square distribution.
    assert chi_square < degrees + 4.0 * math.sqrt(2.0 * degrees)


@given(
    num_candidates=st.integers(1, 6),
    num_positions=st.integers(1, 4),
    exploration=st.sampled_from([0.0, 0.05, 0.5, 1.0]),
)
def test_probabilities_over_all_draws_are_those_of_all_answers(
    num_candidates: int, num_positions: int, exploration: float
) -> None:
    expected = np.zeros((max(num_positions + 1, num_candidates), min(num_positions, num_candidates)))
    for answer, probability in answer_probabilities(tuple(range(num_candidates)), num_positions, exploration).items():
        for position, rank in enumerate(answer):
            expected[rank, position] += probability
    probabilities = position_probabilities(num_candidates, num_positions, exploration)
    assert probabilities.shape == (num_positions + 1, min(num_positions, num_candidates))
    np.testing.assert_allclose(probabilities, expected[: num_positions + 1], atol=1e-12)
    for worse in expected[num_positions + 1 :]:
        np.testing.assert_allclose(worse, probabilities[-1], atol=1e-12)


def test_some_candidate_is_at_every_position() -> None:
    probabilities = position_probabilities(150, 20, 0.1)
    np.testing.assert_allclose(probabilities[:-1].sum(axis=0) + (150 - 20) * probabilities[-1], 1.0)


@given(order=st.permutations(range(8)), num_items=st.integers(0, 10), seed=st.integers(0, 2**32))
def test_without_exploration_it_is_the_order(order: list[int], num_items: int, seed: int) -> None:
    shown, propensities = explore(
        np.array(order), num_items=num_items, exploration=0.0, rng=np.random.default_rng(seed)
    )
    assert shown.tolist() == order[:num_items]
    assert propensities.dtype == np.float32
    assert propensities.tolist() == [1.0] * min(num_items, 8)


def test_the_last_that_remains_is_certain() -> None:
    _, propensities = explore(np.array([7, 8]), num_items=2, exploration=0.5, rng=np.random.default_rng(1))
    assert propensities[1] == 1.0


@given(request_id=st.text(max_size=20))
def test_a_request_has_its_own_numbers(request_id: str) -> None:
    numbers = rng_for(request_id).random(4).tolist()
    assert rng_for(request_id).random(4).tolist() == numbers
    assert rng_for(request_id + "x").random(4).tolist() != numbers


def test_numbers_are_the_same_on_every_machine() -> None:
    """Not a seed of `hash`, which differs from process to process."""
    assert rng_for("r-1").integers(1000, size=4).tolist() == [879, 238, 277, 575]
