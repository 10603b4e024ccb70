"""A world: tastes that a ranking can use, newcomers, and equal settings that make equal worlds."""

from __future__ import annotations

import numpy as np
import pytest

from deploy.simulate.behaviour import expected_clicks
from deploy.simulate.history import interactions, seen_and_popular
from deploy.simulate.settings import WorldSettings
from deploy.simulate.world import World, make_world

SETTINGS = WorldSettings(seed=3, users=300, items=200, new_users=30, new_items=10, days=4)


@pytest.fixture(scope="module")
def world() -> World:
    return make_world(SETTINGS)


def test_a_ranking_by_taste_earns_more_than_popularity_and_that_more_than_chance(world: World) -> None:
    seen, popular = seen_and_popular(world)
    rng = np.random.default_rng(0)
    earned = {"oracle": 0.0, "popular": 0.0, "random": 0.0}
    for user in range(SETTINGS.users):
        attraction = world.attraction(user, 0)
        free = [row for row in popular.tolist() if row not in seen[user] and world.items_arrive[row] == 0]
        lists = {
            "oracle": sorted(free, key=lambda row: -attraction[row])[:10],
            "popular": free[:10],
            "random": rng.choice(free, 10, replace=False).tolist(),
        }
        for name, rows in lists.items():
            earned[name] += float(expected_clicks(rows, attraction).sum()) / SETTINGS.users
    print(earned)
    assert earned["oracle"] > 1.5 * earned["popular"]
    assert earned["popular"] > 1.5 * earned["random"]


def test_what_is_clicked_and_what_is_bought_differ(world: World) -> None:
    attraction = np.mean([world.attraction(user, 0) for user in range(SETTINGS.users)], axis=0)
    assert abs(np.corrcoef(attraction, world.item_intent)[0, 1]) < 0.2
    assert world.item_intent.max() > 4 * np.median(world.item_intent)


def test_tastes_turn_by_the_angle_of_each_day(world: World) -> None:
    angle = SETTINGS.drift * 40
    now = np.cos(angle) * world.tastes[0] + np.sin(angle) * world.drifts[0]
    assert now @ world.tastes[0] == pytest.approx(np.cos(angle))
    assert np.linalg.norm(now) == pytest.approx(1.0)
    assert not np.allclose(world.attraction(0, 0), world.attraction(0, 40))


def test_newcomers_arrive_after_the_first_day_and_within_the_days(world: World) -> None:
    for arrive, known, new in (
        (world.users_arrive, SETTINGS.users, SETTINGS.new_users),
        (world.items_arrive, SETTINGS.items, SETTINGS.new_items),
    ):
        assert len(arrive) == known + new
        assert (arrive[:known] == 0).all()
        assert set(arrive[known:].tolist()) == {1, 2, 3}


def test_the_history_is_of_known_users_and_items_and_views_come_first(world: World) -> None:
    times: dict[tuple[int, int], dict[str, int]] = {}
    for row in interactions(world):
        assert row.user < SETTINGS.users
        assert row.item < SETTINGS.items
        assert row.seconds > 0
        of_pair = times.setdefault((row.user, row.item), {})
        assert row.type not in of_pair
        of_pair[row.type] = row.seconds
    assert len({user for user, _ in times}) == SETTINGS.users
    for of_pair in times.values():
        assert of_pair["view"] > of_pair.get("cart", 0) > of_pair.get("buy", -1)
    num_bought = sum("buy" in of_pair for of_pair in times.values())
    assert 0.05 < num_bought / len(times) < 0.25


def test_equal_settings_make_equal_worlds_and_another_seed_another(world: World) -> None:
    again, other = make_world(SETTINGS), make_world(WorldSettings(**{**vars(SETTINGS), "seed": 4}))
    assert list(interactions(again)) == list(interactions(world))
    np.testing.assert_array_equal(again.attraction(5, 2), world.attraction(5, 2))
    assert not np.array_equal(other.prices, world.prices)
