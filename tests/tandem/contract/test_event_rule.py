"""One rule in two programs: the trainer's cleaning of a file, and feature_sync's state after the same events."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from feature_sync.events.states import with_events
from feature_sync.prepared.prepared import open_prepared, read_users
from tandem.contract.event_rule import EventRule
from tandem.contract.names import EVENT_TYPES
from tandem.contract.store import UserState
from tandem.contract.streams import Event
from tests.tandem.contract.test_store import assert_equal_states
from trainer.data.config import load_data_config
from trainer.data.prepare import prepare

WEIGHTS = {"impression": 0.1, "click": 1.0, "add_to_cart": 3.0, "purchase": 5.0, "rating": 1.0, "dwell": 0.0}
ORDERS = (WEIGHTS, {**WEIGHTS, "click": 9.0, "dwell": 3.0}, dict.fromkeys(WEIGHTS, 2.0))
CONFIG = """
name = "shop"
format = "table"
min_rating = 3
[interactions]
path = "rows.csv"
user = "u"
item = "i"
event_type = "e"
rating = "r"
timestamp = "t"
"""


def random_events(num_events: int = 400) -> list[Event]:
    """Events of five users with a dozen items, of every type but impressions, in the order of their times."""
    generator = np.random.default_rng(3)
    times = np.sort(generator.integers(1, 300, num_events)) * 1_000_000
    return [
        Event(
            event_id=f"e{number}",
            user_id=f"user-{generator.integers(5)}",
            item_id=f"item-{generator.integers(12)}",
            type=EVENT_TYPES[generator.integers(1, 6)],
            value=float(generator.integers(1, 6)),
            occurred_at=int(time),
            received_at=int(time),
        )
        for number, time in enumerate(times)
    ]


@pytest.mark.parametrize("weights", ORDERS)
def test_cleaning_and_events_make_the_same_state(weights: Mapping[str, float], tmp_path: Path) -> None:
    """Only ratings are below the least rating: the file has a value with every event, events are as in the file."""
    events = [event for event in random_events() if event.type == "rating" or event.value >= 3]
    rows = [f"{e.user_id},{e.item_id},{e.type},{e.value},{e.occurred_at // 1_000_000}" for e in events]
    (tmp_path / "rows.csv").write_text("\n".join(("u,i,e,r,t", *rows)))
    (tmp_path / "shop.toml").write_text(CONFIG)
    overrides = {f"event_weights.{name}": str(weight) for name, weight in weights.items()}
    prepared = prepare(load_data_config(str(tmp_path / "shop.toml"), overrides), tmp_path / "cache")
    (users,) = read_users(open_prepared(prepared.directory), 10)
    assert len(users) == 5
    rule = EventRule(min_rating=3, event_weights=weights)
    for user in users:
        state = UserState()
        for event in events:
            if event.user_id == user.user_id:
                state = with_events(state, [event], rule)
        counted = UserState.from_entries(state.entries, features={}, revision=0, low_rated_keys=state.seen_item_keys)
        assert_equal_states(counted, user.state)
        np.testing.assert_array_equal(state.merged, user.state.merged)
        assert len(state.merged)


def test_events_in_any_order_make_the_same_history() -> None:
    """Late events and parts of any size; equal times are ordered by arrival, so every time is its own here."""
    events = [event for event in random_events() if event.user_id == "user-1"]
    events = [
        dataclasses.replace(event, occurred_at=1_000_000 * number) for number, event in enumerate(events, start=1)
    ]
    rule = EventRule(event_weights=WEIGHTS)
    in_order = with_events(UserState(), events, rule)
    generator = np.random.default_rng(0)
    for _ in range(5):
        state, shuffled = UserState(), [events[index] for index in generator.permutation(len(events))]
        for start in range(0, len(shuffled), 7):
            state = with_events(state, shuffled[start : start + 7], rule)
        assert (state.entries.item_keys == in_order.entries.item_keys).all()
        assert (state.event_codes == in_order.event_codes).all()
        assert (state.event_times == in_order.event_times).all()
        np.testing.assert_array_equal(state.merged, in_order.merged)
        np.testing.assert_array_equal(state.event_counts, in_order.event_counts)


def test_a_rule_without_weights_is_that_of_earlier_bundles() -> None:
    click, purchase = (
        Event(event_id=kind, user_id="ann", item_id="tea", type=kind, occurred_at=time, received_at=time)
        for time, kind in ((10, "click"), (20, "purchase"))
    )
    state = with_events(UserState(), [click, purchase], EventRule())
    assert (state.event_codes.tolist(), state.event_times.tolist(), len(state.merged)) == ([2], [10], 0)
    assert with_events(UserState(), [click, purchase], EventRule(event_weights=WEIGHTS)).event_times.tolist() == [20]
