"""The prepared data in memory: whom to train on, what to recommend, and the leave-last-out split.

A user's events stay in their order in one flat array, so that every split is a cut of each user's end.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tandem.contract import names
from tandem.contract.held_out_users import HeldOutUser
from tandem.contract.store import UserState
from tandem.contract.vocabulary import Rows, Vocabulary
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
    """(items,) bool; False: read as history, learned from, and never recommended."""

    def __len__(self) -> int:
        return len(self.item_ids)

    @property
    def unavailable_rows(self) -> Rows:
        """(n,) int64, ascending: items that must not be recommended."""
        return np.flatnonzero(~self.available)


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """Interactions of all users, oldest first within each user."""

    catalogue: Catalogue
    user_ids: Sequence[str]
    user_features: Sequence[Mapping[str, str]]
    """Raw features of each user; a missing one is left out."""
    feature_names: tuple[str, ...]
    offsets: npt.NDArray[np.int64]
    """(users + 1,) int64: the events of user u are offsets[u] to offsets[u + 1]."""
    item_rows: Rows
    """(events,) int64."""
    event_codes: npt.NDArray[np.uint8]
    """(events,) uint8."""
    event_times: npt.NDArray[np.int64]
    """(events,) int64, microseconds; 0 where only the order is known."""
    ratings: npt.NDArray[np.float32]
    """(events,) float32 on the scale of the source, NaN where there is none."""
    weights: npt.NDArray[np.float32]
    """(events,) float32, how much the event's type says, as the data set's `event_weights` have it."""

    @property
    def lengths(self) -> npt.NDArray[np.int64]:
        """(users,) int64, events of each user."""
        return np.diff(self.offsets)

    @property
    def user_rows(self) -> npt.NDArray[np.int64]:
        """(events,) int64, the user of each event."""
        return np.repeat(np.arange(len(self.user_ids)), self.lengths)

    def subset(self, kept: npt.NDArray[np.bool_]) -> Dataset:
        """The events for which `kept`, (events,) bool, holds. Users and items keep their rows in any case."""
        counts = np.bincount(self.user_rows[kept], minlength=len(self.user_ids))
        return replace(
            self,
            offsets=np.concatenate([[0], np.cumsum(counts)]),
            item_rows=self.item_rows[kept],
            event_codes=self.event_codes[kept],
            event_times=self.event_times[kept],
            ratings=self.ratings[kept],
            weights=self.weights[kept],
        )

    def first_events(self, num_events: npt.NDArray[np.int64]) -> Dataset:
        """The first `num_events[u]` events of each user, (users,) int64; see `subset`."""
        position = np.arange(len(self.item_rows)) - np.repeat(self.offsets[:-1], self.lengths)
        return self.subset(position < np.repeat(num_events, self.lengths))

    def user_state(self, user: int, num_events: int) -> UserState:
        """What the online store would hold of the user after their first `num_events` events."""
        start = int(self.offsets[user])
        events = slice(start, start + num_events)
        return UserState.from_events(
            self.catalogue.vocabulary.keys[self.item_rows[events]],
            self.event_codes[events],
            self.event_times[events],
            features=self.user_features[user],
        )

    def popularity(self, num_events: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """(items,) int64, interactions with each item, counting the first `num_events[u]` events of each user."""
        return np.bincount(self.first_events(num_events).item_rows, minlength=len(self.catalogue))


@dataclass(frozen=True)
class Cut:
    """One cut of every user: what comes before is history."""

    num_history_events: npt.NDArray[np.int64]
    """(users,) int64, events to train on. For a user who is not evaluated that is all of them but later targets."""
    users: npt.NDArray[np.int64]
    """(n,) int64, users by whose histories a model is calibrated or evaluated."""


@dataclass(frozen=True)
class HoldOut(Cut):
    """A cut with a target for each of its users, who are (evaluated,): an item that they chose after it."""

    target_rows: Rows
    """(evaluated,) int64."""


def everything(dataset: Dataset) -> Cut:
    """The cut after the last event, where nothing is held out. Its users are those who have any event."""
    return Cut(dataset.lengths, np.flatnonzero(dataset.lengths))


def history_states(dataset: Dataset, cut: Cut, users: npt.NDArray[np.int64]) -> list[UserState]:
    """States of users, (n,) int64, as they were at the cut."""
    return [dataset.user_state(int(user), int(cut.num_history_events[user])) for user in users]


def sample_places(cut: Cut, num_users: int) -> npt.NDArray[np.int64]:
    """Places in `cut.users` of at most `num_users` of them, drawn with a fixed seed; ascending, (n,) int64."""
    return np.sort(np.random.default_rng(0).permutation(len(cut.users))[:num_users])


def leave_last_out(dataset: Dataset, *, skip: int) -> HoldOut:
    """Leave-last-out: `skip` 0 holds out each user's last event (test), `skip` 1 the one before (validation).

    Events after the target are left out altogether. Users whose target would be their first event are trained on with
    it, if no later event is held out, and not evaluated.
    """
    lengths = dataset.lengths
    targets = lengths - 1 - skip
    users = np.flatnonzero(targets >= 1)
    history = np.where(lengths >= 2, np.maximum(targets, 0), lengths)
    return HoldOut(history, users, dataset.item_rows[dataset.offsets[users] + targets[users]])


def held_out_users(dataset: Dataset, hold_out: HoldOut, places: npt.NDArray[np.int64]) -> list[HeldOutUser]:
    """Users at places of `hold_out.users`, (n,) int64, as they were before they chose their held-out item."""
    users = hold_out.users[places]
    states = history_states(dataset, hold_out, users)
    return [
        HeldOutUser(dataset.user_ids[user], state, dataset.catalogue.item_ids[target])
        for user, state, target in zip(users, states, hold_out.target_rows[places], strict=True)
    ]


def load_dataset(directory: Path) -> Dataset:
    """Reads a prepared-data folder (see `trainer.data.prepare`)."""
    items = read_table(directory / "items.parquet")
    users = read_table(directory / "users.parquet")
    interactions = read_table(
        directory / "interactions.parquet",
        columns=[names.USER_ID, names.ITEM_ID, names.RATING, names.TIMESTAMP, names.EVENT_TYPE, names.WEIGHT],
    )
    item_ids = items.column(names.ITEM_ID).to_pylist()
    user_ids = users.column(names.USER_ID).to_pylist()
    feature_names = tuple(name for name in users.column_names if name != names.USER_ID)
    user_rows = _rows_of(interactions.column(names.USER_ID), user_ids)
    order = np.argsort(user_rows, kind="stable")
    counts = np.bincount(user_rows, minlength=len(user_ids))
    event_codes = _rows_of(interactions.column(names.EVENT_TYPE), list(names.EVENT_TYPES)) + 1
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
        item_rows=_rows_of(interactions.column(names.ITEM_ID), item_ids)[order],
        event_codes=event_codes[order].astype(np.uint8),
        event_times=interactions.column(names.TIMESTAMP).to_numpy()[order],
        ratings=interactions.column(names.RATING).to_numpy()[order].astype(np.float32),
        weights=interactions.column(names.WEIGHT).to_numpy()[order].astype(np.float32),
    )


def first_user_id(directory: Path) -> str:
    """The first user of a prepared-data folder."""
    users = read_table(directory / "users.parquet", columns=[names.USER_ID])
    return str(users.column(names.USER_ID)[0].as_py())


def _rows_of(column: Any, values: Sequence[str]) -> Rows:
    """Place of each value of an Arrow column in a list; (n,) int64."""
    encoded = column.combine_chunks().dictionary_encode()
    places = {value: place for place, value in enumerate(values)}
    of_code = np.array([places[value] for value in encoded.dictionary.to_pylist()], dtype=np.int64)
    rows: Rows = of_code[np.asarray(encoded.indices)]
    return rows
