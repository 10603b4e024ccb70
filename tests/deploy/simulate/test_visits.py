"""Who comes on which day. What a visit does over the wire is in `test_load.py`."""

from __future__ import annotations

import pytest

from deploy.simulate.settings import WorldSettings
from deploy.simulate.visits import Shopper, comes
from deploy.simulate.world import World, make_world

DAYS = 30


@pytest.fixture(scope="module")
def world() -> World:
    return make_world(WorldSettings(users=100, items=20, new_users=6, new_items=0, days=4))


def visits(world: World, row: int, satisfaction: float, *, seed: int = 1) -> list[int]:
    """The days on which a user comes."""
    shopper = Shopper(row=row, seen=set(), satisfaction=satisfaction)
    return [day for day in range(DAYS) if comes(world, shopper, day, seed=seed)]


def test_newcomers_come_first_on_the_day_of_their_arrival(world: World) -> None:
    for row in range(100, 106):
        assert visits(world, row, 0.5)[0] == world.users_arrive[row] > 0


def test_users_come_on_the_same_days_again_and_on_others_with_another_seed(world: World) -> None:
    assert [visits(world, row, 0.5) for row in range(100)] == [visits(world, row, 0.5) for row in range(100)]
    assert [visits(world, row, 0.5) for row in range(100)] != [visits(world, row, 0.5, seed=2) for row in range(100)]


def test_satisfied_users_come_on_all_days_of_unsatisfied_ones_and_more(world: World) -> None:
    found = [(set(visits(world, row, 0.0)), set(visits(world, row, 1.0))) for row in range(100)]
    assert all(unsatisfied <= satisfied for unsatisfied, satisfied in found)
    rates = [sum(len(days) for days in of) / 100 / DAYS for of in zip(*found, strict=True)]
    assert rates[0] == pytest.approx(0.6 * rates[1], abs=0.04)
    assert rates[1] == pytest.approx(world.activity[:100].mean(), abs=0.03)
