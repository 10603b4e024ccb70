"""The prepared data in memory: the users and their events, the catalogue, and the leave-last-out split.

All events are in flat arrays, by user and then in order, so a leave-last-out split cuts off the end of each user's
events.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tandem.contract import names
from tandem.contract.held_out_users import HeldOutUser
from tandem.contract.store import UserState
from tandem.contract.vocabulary import MISSING_ROW, NO_KEYS, Keys, Rows, Vocabulary, id_keys
from trainer.dataset.parquet import read_table


@dataclass(frozen=True, kw_only=True)
class Catalogue:
    """The items in row order."""

    item_ids: Sequence[str]
    titles: Sequence[str]
    descriptions: Sequence[str]
    categories: Sequence[Sequence[str]]
    attributes: Sequence[Mapping[str, str]]
    vocabulary: Vocabulary
    available: npt.NDArray[np.bool_]
    """(items,) bool. An item with False is read as history and trained on, but never recommended."""

    def __len__(self) -> int:
        return len(self.item_ids)

    @property
    def unavailable_rows(self) -> Rows:
        """(n,) int64, ascending: items that must not be recommended."""
        return np.flatnonzero(~self.available)


@dataclass(frozen=True, kw_only=True)
class LowRated:
    """Items that users rated below the data set's least rating: seen, and no part of any history."""

    user_rows: npt.NDArray[np.int64] = field(default_factory=lambda: np.empty(0, dtype=np.int64))
    """(n,) int64, ascending."""
    item_keys: Keys = field(default_factory=NO_KEYS.copy)
    """(n,) uint64; the catalogue may lack the item."""
    num_events_before: npt.NDArray[np.int64] = field(default_factory=lambda: np.empty(0, dtype=np.int64))
    """(n,) int64, number of the user's events that came before."""

    def of_user(self, user: int, num_events: int) -> Keys:
        """What a user had rated low when they had `num_events` events, until just before the next: (m,) uint64."""
        rated = slice(*np.searchsorted(self.user_rows, [user, user + 1]))
        return self.item_keys[rated][self.num_events_before[rated] <= num_events]

    def subset(self, offsets: npt.NDArray[np.int64], kept: npt.NDArray[np.bool_]) -> LowRated:
        """Those of a data set of the events `kept`, (events,) bool, of users at `offsets`, (users + 1,) int64.

        What came after a user's last kept event and another one is left out: it lies in that user's future.
        """
        num_kept = np.concatenate([[0], np.cumsum(kept)])
        last_kept = np.maximum.reduceat(np.append(np.where(kept, np.arange(len(kept)), -1), -1), offsets[:-1])
        num_until_last = np.where(np.diff(offsets) > 0, last_kept + 1 - offsets[:-1], 0)
        is_past = self.num_events_before <= np.maximum(num_until_last, 0)[self.user_rows]
        firsts = offsets[self.user_rows]
        return LowRated(
            user_rows=self.user_rows[is_past],
            item_keys=self.item_keys[is_past],
            num_events_before=(num_kept[firsts + self.num_events_before] - num_kept[firsts])[is_past],
        )

    def with_users(self, new_rows: npt.NDArray[np.int64]) -> LowRated:
        """Those of users in other rows: `new_rows`, (users,) int64."""
        rows = new_rows[self.user_rows]
        order = np.argsort(rows, kind="stable")
        return LowRated(
            user_rows=rows[order],
            item_keys=self.item_keys[order],
            num_events_before=self.num_events_before[order],
        )


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """Interactions of all users, oldest first within each user."""

    catalogue: Catalogue
    user_ids: Sequence[str]
    user_features: Sequence[Mapping[str, str]]
    """Raw features of each user, without missing features."""
    feature_names: tuple[str, ...]
    offsets: npt.NDArray[np.int64]
    """(users + 1,) int64: the events of user u are offsets[u] to offsets[u + 1]."""
    item_rows: Rows
    """(events,) int64."""
    event_codes: npt.NDArray[np.uint8]
    """(events,) uint8."""
    event_times: npt.NDArray[np.int64]
    """(events,) int64, microseconds since 1970; 0 if only the order is known."""
    ratings: npt.NDArray[np.float32]
    """(events,) float32 on the scale of the source; NaN without a rating."""
    weights: npt.NDArray[np.float32]
    """(events,) float32, the weight of the event's type in the data set's `event_weights`."""
    pair_types: npt.NDArray[np.uint8]
    """(events,) uint8, the types of all events that an event stands for: bit i is names.EVENT_TYPES[i]. Labels alone:
    some of them happened after `event_times`."""
    low_rated: LowRated = field(default_factory=LowRated)

    @property
    def lengths(self) -> npt.NDArray[np.int64]:
        """(users,) int64, number of events of each user."""
        return np.diff(self.offsets)

    @property
    def user_rows(self) -> npt.NDArray[np.int64]:
        """(events,) int64, the user of each event."""
        return np.repeat(np.arange(len(self.user_ids)), self.lengths)

    def subset(self, kept: npt.NDArray[np.bool_]) -> Dataset:
        """The events for which `kept`, (events,) bool, is True. Users and items keep their rows."""
        counts = np.bincount(self.user_rows[kept], minlength=len(self.user_ids))
        return replace(
            self,
            offsets=np.concatenate([[0], np.cumsum(counts)]),
            item_rows=self.item_rows[kept],
            event_codes=self.event_codes[kept],
            event_times=self.event_times[kept],
            ratings=self.ratings[kept],
            weights=self.weights[kept],
            pair_types=self.pair_types[kept],
            low_rated=self.low_rated.subset(self.offsets, kept),
        )

    def first_events(self, num_events: npt.NDArray[np.int64]) -> Dataset:
        """The first `num_events[u]` events of each user, (users,) int64; see `subset`."""
        positions = np.arange(len(self.item_rows)) - np.repeat(self.offsets[:-1], self.lengths)
        return self.subset(positions < np.repeat(num_events, self.lengths))

    def user_state(self, user: int, num_events: int) -> UserState:
        """The user's state in the online store after their first `num_events` events."""
        start = int(self.offsets[user])
        events = slice(start, start + num_events)
        return UserState.from_events(
            self.catalogue.vocabulary.keys[self.item_rows[events]],
            self.event_codes[events],
            self.event_times[events],
            features=self.user_features[user],
            low_rated_keys=self.low_rated.of_user(user, num_events),
        )

    def seen_rows(self, user: int, num_events: int) -> Rows:
        """(n,) int64: items that the user had seen after their first `num_events` events, which are not recommended."""
        start = int(self.offsets[user])
        low_rated = self.catalogue.vocabulary.rows_of_keys(self.low_rated.of_user(user, num_events))
        return np.concatenate([self.item_rows[start : start + num_events], low_rated[low_rated != MISSING_ROW]])

    def popularity(self, num_events: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """(items,) int64, number of interactions with each item in the first `num_events[u]` events of each user."""
        return np.bincount(self.first_events(num_events).item_rows, minlength=len(self.catalogue))

    def event_counts(self, num_events: npt.NDArray[np.int64]) -> npt.NDArray[np.uint32] | None:
        """(items, 6) uint32, of the same interactions those that stand for an event of each of names.EVENT_TYPES; None
        if the data set has one type."""
        if len(np.unique(self.pair_types)) <= 1:
            return None
        known = self.first_events(num_events)
        counts = [
            np.bincount(known.item_rows[known.pair_types >> bit & 1 > 0], minlength=len(self.catalogue))
            for bit in range(len(names.EVENT_TYPES))
        ]
        return np.stack(counts, axis=1).astype(np.uint32)


@dataclass(frozen=True)
class Cut:
    """A cut through each user's events: the events before it are history."""

    num_history_events: npt.NDArray[np.int64]
    """(users,) int64, number of events to train on. A user who is not evaluated is trained on all events that are not a
    later target."""
    users: npt.NDArray[np.int64]
    """(n,) int64, users with whose histories a model is calibrated or evaluated."""


@dataclass(frozen=True)
class HoldOut(Cut):
    """A cut with one target for each of its users, (evaluated,): an item that the user chose after the cut."""

    target_rows: Rows
    """(evaluated,) int64."""


def everything(dataset: Dataset) -> Cut:
    """The cut after each user's last event, which holds out nothing. Its users are all users with events."""
    return Cut(dataset.lengths, np.flatnonzero(dataset.lengths))


def history_states(dataset: Dataset, cut: Cut, users: npt.NDArray[np.int64]) -> list[UserState]:
    """States of `users`, (n,) int64, at the cut."""
    return [dataset.user_state(int(user), int(cut.num_history_events[user])) for user in users]


def sample_positions(cut: Cut, num_users: int) -> npt.NDArray[np.int64]:
    """Positions in `cut.users` of at most `num_users` users, drawn with a fixed seed; (n,) int64, ascending."""
    return np.sort(np.random.default_rng(0).permutation(len(cut.users))[:num_users])


def leave_last_out(dataset: Dataset, *, skip: int) -> HoldOut:
    """Leave-last-out: `skip` 0 holds out each user's last event (test), `skip` 1 the one before (validation).

    Events after the target are not used at all. A user whose target would be their first event is not evaluated; that
    event is used for training if no later event is held out.
    """
    lengths = dataset.lengths
    targets = lengths - 1 - skip
    users = np.flatnonzero(targets >= 1)
    history = np.where(lengths >= 2, np.maximum(targets, 0), lengths)
    return HoldOut(history, users, dataset.item_rows[dataset.offsets[users] + targets[users]])


def held_out_users(dataset: Dataset, hold_out: HoldOut, positions: npt.NDArray[np.int64]) -> list[HeldOutUser]:
    """Users at `positions` of `hold_out.users`, (n,) int64, as they were before they chose their held-out item."""
    users = hold_out.users[positions]
    states = history_states(dataset, hold_out, users)
    return [
        HeldOutUser(dataset.user_ids[user], state, dataset.catalogue.item_ids[target])
        for user, state, target in zip(users, states, hold_out.target_rows[positions], strict=True)
    ]


def load_dataset(directory: Path) -> Dataset:
    """Reads a folder of prepared data (see `trainer.data.prepare`)."""
    items = read_table(directory / "items.parquet")
    users = read_table(directory / "users.parquet")
    interactions = read_table(
        directory / "interactions.parquet",
        columns=[
            *(names.USER_ID, names.ITEM_ID, names.RATING, names.TIMESTAMP, names.EVENT_TYPE, names.WEIGHT),
            *names.EVENT_COUNTS,
        ],
    )
    item_ids = items.column(names.ITEM_ID).to_pylist()
    user_ids = users.column(names.USER_ID).to_pylist()
    feature_names = tuple(name for name in users.column_names if name != names.USER_ID)
    user_rows = _indices_in(interactions.column(names.USER_ID), user_ids)
    order = np.argsort(user_rows, kind="stable")
    counts = np.bincount(user_rows, minlength=len(user_ids))
    event_codes = _indices_in(interactions.column(names.EVENT_TYPE), list(names.EVENT_TYPES)) + 1
    return Dataset(
        catalogue=Catalogue(
            item_ids=item_ids,
            titles=items.column(names.TITLE).to_pylist(),
            descriptions=items.column(names.DESCRIPTION).to_pylist(),
            categories=items.column(names.CATEGORIES).to_pylist(),
            attributes=[dict(pairs) for pairs in items.column(names.ATTRIBUTES).to_pylist()],
            vocabulary=Vocabulary.from_ids(item_ids),
            available=np.asarray(items.column(names.AVAILABLE).to_numpy(), dtype=np.bool_),
        ),
        user_ids=user_ids,
        user_features=[
            {name: value for name, value in row.items() if name in feature_names and value is not None}
            for row in users.to_pylist()
        ],
        feature_names=feature_names,
        offsets=np.concatenate([[0], np.cumsum(counts)]),
        item_rows=_indices_in(interactions.column(names.ITEM_ID), item_ids)[order],
        event_codes=event_codes[order].astype(np.uint8),
        event_times=interactions.column(names.TIMESTAMP).to_numpy()[order],
        ratings=interactions.column(names.RATING).to_numpy()[order].astype(np.float32),
        weights=interactions.column(names.WEIGHT).to_numpy()[order].astype(np.float32),
        pair_types=_types_of(interactions)[order],
        low_rated=_load_low_rated(directory, user_ids),
    )


def _types_of(interactions: Any) -> npt.NDArray[np.uint8]:
    """`Dataset.pair_types` of a table of interactions."""
    types = np.zeros(len(interactions), dtype=np.uint8)
    for bit, name in enumerate(names.EVENT_COUNTS):
        types |= (interactions.column(name).to_numpy() > 0).astype(np.uint8) << bit
    return types


def _load_low_rated(directory: Path, user_ids: Sequence[str]) -> LowRated:
    """The low ratings of users who have events; all others are in no data set."""
    rows_of_users = {user_id: row for row, user_id in enumerate(user_ids)}
    table = read_table(directory / "low_rated.parquet")
    users = table.column(names.USER_ID).combine_chunks().dictionary_encode()
    rows = np.array([rows_of_users.get(user_id, -1) for user_id in users.dictionary.to_pylist()], dtype=np.int64)
    user_rows = rows[np.asarray(users.indices)]
    items = table.column(names.ITEM_ID).combine_chunks().dictionary_encode()
    item_keys = id_keys(items.dictionary.to_pylist())[np.asarray(items.indices)]
    known = np.flatnonzero(user_rows >= 0)
    order = known[np.argsort(user_rows[known], kind="stable")]
    return LowRated(
        user_rows=user_rows[order],
        item_keys=item_keys[order],
        num_events_before=table.column(names.NUM_EVENTS_BEFORE).to_numpy()[order],
    )


def first_user_id(directory: Path) -> str:
    """The id of the first user in a folder of prepared data."""
    users = read_table(directory / "users.parquet", columns=[names.USER_ID])
    return str(users.column(names.USER_ID)[0].as_py())


def _indices_in(column: Any, values: Sequence[str]) -> Rows:
    """Index in a list of each value of an Arrow column; (n,) int64."""
    encoded = column.combine_chunks().dictionary_encode()
    index_of = {value: index for index, value in enumerate(values)}
    code_indices = np.array([index_of[value] for value in encoded.dictionary.to_pylist()], dtype=np.int64)
    indices: Rows = code_indices[np.asarray(encoded.indices)]
    return indices
