"""Applies events to the states of users: stored bytes in, bytes to store out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from tandem.contract import names
from tandem.contract.event_rule import EventRule
from tandem.contract.store import UserState
from tandem.contract.streams import Event
from tandem.contract.vocabulary import id_keys


def by_user(events: Iterable[Event]) -> dict[str, list[Event]]:
    """The events of each user, in the order of arrival."""
    grouped: dict[str, list[Event]] = {}
    for event in events:
        grouped.setdefault(event.user_id, []).append(event)
    return grouped


def state_after(stored: bytes | None, events: Sequence[Event], rule: EventRule) -> bytes:
    """The state of a user after these events. Raises StoreValueError for an unreadable state.

    As in the trainer's cleaning, the item of a rating below the rule's least is seen, but enters no history, and the
    strongest event of an item stands for all of them.
    """
    return with_events(UserState() if stored is None else UserState.from_bytes(stored), events, rule).to_bytes()


def with_events(state: UserState, events: Sequence[Event], rule: EventRule) -> UserState:
    """`state_after`, unpacked."""
    low_rated = None
    if rule.min_rating is not None:
        low_rated = np.array([event.type == "rating" and event.value < rule.min_rating for event in events])
    return state.with_events(
        id_keys(event.item_id for event in events),
        np.array([names.EVENT_CODES[event.type] for event in events], dtype=np.uint8),
        np.array([event.occurred_at for event in events], dtype=np.int64),
        low_rated=low_rated,
        strengths=rule.strengths,
    )
