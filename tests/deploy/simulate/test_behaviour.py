"""What users do with a list: as often as the planted probabilities say."""

from __future__ import annotations

import numpy as np
import pytest

from deploy.simulate.behaviour import (
    PURCHASE_RATE,
    Action,
    examination,
    expected_clicks,
    react,
    return_rate,
    satisfied,
)
from deploy.simulate.settings import WorldSettings
from deploy.simulate.world import World, make_world
from tandem.client import EventType

NUM_LISTS = 20_000
POSITIONS = 6


@pytest.fixture(scope="module")
def world() -> World:
    return make_world(WorldSettings(users=20, items=50, new_users=0, new_items=0))


@pytest.fixture(scope="module")
def reactions(world: World) -> list[tuple[list[int], tuple[Action, ...]]]:
    """Lists of random items, and what a user did with each."""
    rng = np.random.default_rng(1)
    attraction = world.attraction(0, 0)
    lists = [rng.permutation(50)[:POSITIONS].tolist() for _ in range(NUM_LISTS)]
    return [(rows, react(rng, world, 0, rows, attraction)) for rows in lists]


def test_the_click_through_rate_falls_with_the_position_as_the_examination_says(world: World, reactions) -> None:
    clicked = np.zeros(POSITIONS)
    for _, actions in reactions:
        for action in actions:
            clicked[action.position] += action.type is EventType.CLICK
    mean = world.attraction(0, 0).mean()
    expected = NUM_LISTS * mean * examination(POSITIONS)
    assert (np.abs(clicked - expected) < 4 * np.sqrt(expected)).all(), (clicked, expected)
    assert examination(POSITIONS)[0] == 1.0
    assert (np.diff(clicked) < 0).all()


def test_clicks_are_those_to_be_expected_of_each_list(world: World, reactions) -> None:
    attraction = world.attraction(0, 0)
    expected = sum(float(expected_clicks(rows, attraction).sum()) for rows, _ in reactions)
    found = sum(action.type is EventType.CLICK for _, actions in reactions for action in actions)
    assert abs(found - expected) < 4 * np.sqrt(expected)


def test_a_purchase_follows_the_cart_and_the_cart_a_click(world: World, reactions) -> None:
    carts = purchases = 0
    expected_carts = 0.0
    for rows, actions in reactions:
        of = {kind: {action.position for action in actions if action.type is kind} for kind in EventType}
        assert of[EventType.PURCHASE] <= of[EventType.ADD_TO_CART] <= of[EventType.CLICK] == of[EventType.DWELL]
        carts += len(of[EventType.ADD_TO_CART])
        purchases += len(of[EventType.PURCHASE])
        expected_carts += sum(float(world.cart_rates(0)[rows[position]]) for position in of[EventType.CLICK])
        for action in actions:
            if action.type is EventType.PURCHASE:
                assert (action.value, action.currency) == (world.prices[rows[action.position]], "EUR")
            if action.type is EventType.DWELL:
                assert action.value > 0
    assert abs(carts - expected_carts) < 4 * np.sqrt(expected_carts)
    assert abs(purchases - PURCHASE_RATE * carts) < 4 * np.sqrt(purchases)


def test_nobody_clicks_an_item_that_the_world_does_not_know(world: World) -> None:
    rng = np.random.default_rng(1)
    certain = np.ones(50)
    assert {action.position for action in react(rng, world, 0, [-1, 3, -1], certain)} <= {1}
    assert expected_clicks([-1, 3], certain).tolist() == [0.0, pytest.approx(1 / np.log2(3))]


def test_satisfied_users_come_back_more_often() -> None:
    assert satisfied(0.5, 0) < 0.5 < satisfied(0.5, 2) <= satisfied(0.5, 50) <= 1.0
    assert return_rate(0.8, 0.0) == pytest.approx(0.48)
    assert return_rate(0.8, 1.0) == pytest.approx(0.8)
