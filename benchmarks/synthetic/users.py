"""Users of a synthetic catalogue, published to the store as `feature_sync` does.

A user has one to three favourite clusters and a history of 20 to 200 items, mostly popular items of those clusters.
Nine users in ten have a fresh vector in the store; for the tenth the server runs its user tower.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

import numpy as np
import numpy.typing as npt
import redis.asyncio

from tandem.contract import names
from tandem.contract.bundle import Bundle
from tandem.contract.store import UserState, UserVector, user_state_key, user_vector_key
from tandem.contract.vocabulary import Rows, Vocabulary

MIN_EVENTS: Final = 20
MAX_EVENTS: Final = 200
USERS_WITHOUT_VECTOR: Final = 10
"""Users whose number is a multiple of this have no stored vector."""

_RANDOM_SHARE: Final = 0.1
"""Share of a user's items that are drawn from all clusters."""
_FIRST_EVENT_SECONDS: Final = 1_700_000_000
_SECONDS_BETWEEN_EVENTS: Final = 3600
_USERS_PER_WRITE: Final = 250


@dataclass(frozen=True, kw_only=True)
class Users:
    """Histories of users as one flat array, with the user tower's vectors."""

    name: str
    offsets: npt.NDArray[np.int64]
    """(users + 1,) int64: user u has the events offsets[u] to offsets[u + 1]."""
    item_rows: Rows
    """(events,) int64, oldest first."""
    vectors: npt.NDArray[np.float32]
    """(users, dim) float32; (users, 0) before they are encoded."""

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def user_id(self, user: int) -> str:
        """External id of a user."""
        return f"{self.name}-user-{user}"

    def rows(self, user: int) -> Rows:
        """Rows of a user's items: (n,) int64, oldest first."""
        return self.item_rows[self.offsets[user] : self.offsets[user + 1]]

    def state(self, user: int, vocabulary: Vocabulary) -> UserState:
        """The user's state in the store: one click per item, an hour apart."""
        keys = vocabulary.keys[self.rows(user)]
        times = (_FIRST_EVENT_SECONDS + _SECONDS_BETWEEN_EVENTS * np.arange(len(keys), dtype=np.int64)) * 1_000_000
        codes = np.full(len(keys), names.EVENT_CODES["click"], dtype=np.uint8)
        return UserState.from_events(keys, codes, times, features={})

    def with_vectors(self, vectors: npt.NDArray[np.float32]) -> Users:
        """The same users with vectors: (users, dim) float32."""
        return Users(name=self.name, offsets=self.offsets, item_rows=self.item_rows, vectors=vectors)

    def first(self, count: int) -> Users:
        """The first `count` users."""
        return Users(
            name=self.name,
            offsets=self.offsets[: count + 1],
            item_rows=self.item_rows[: self.offsets[count]],
            vectors=self.vectors[:count],
        )

    def save(self, path: Path) -> None:
        """Writes an .npz file."""
        np.savez(path, name=self.name, offsets=self.offsets, item_rows=self.item_rows, vectors=self.vectors)

    @classmethod
    def load(cls, path: Path) -> Self:
        """Reads a file that `save` wrote. Raises OSError if there is none."""
        with np.load(path, allow_pickle=False) as arrays:
            return cls(
                name=str(arrays["name"]),
                offsets=arrays["offsets"],
                item_rows=arrays["item_rows"],
                vectors=arrays["vectors"],
            )


def draw_users(
    rng: np.random.Generator, *, clusters: Rows, popularity: npt.NDArray[np.int64], num_users: int, name: str
) -> Users:
    """Draws users. `clusters` is (items,) int64, the cluster of each item, and `popularity` (items,) int64."""
    order = np.argsort(clusters, kind="stable")
    starts = np.concatenate([[0], np.cumsum(np.bincount(clusters))])
    # Cumulated popularity, cluster by cluster: a binary search draws an item in proportion to its popularity.
    cumulated = np.concatenate([[0.0], np.cumsum(popularity[order].astype(np.float64))])
    inhabited = np.flatnonzero(np.diff(starts))
    everything = cumulated[-1]
    histories = []
    for _ in range(num_users):
        length = int(rng.integers(MIN_EVENTS, MAX_EVENTS + 1))
        favourites = rng.choice(inhabited, size=int(rng.integers(1, 4)))
        cluster = favourites[rng.integers(len(favourites), size=length)]
        low, high = cumulated[starts[cluster]], cumulated[starts[cluster + 1]]
        anywhere = rng.random(length) < _RANDOM_SHARE
        low, high = np.where(anywhere, 0.0, low), np.where(anywhere, everything, high)
        drawn = np.searchsorted(cumulated, low + rng.random(length) * (high - low), side="right") - 1
        histories.append(order[np.minimum(drawn, len(order) - 1)])
    offsets = np.concatenate([[0], np.cumsum([len(history) for history in histories])]).astype(np.int64)
    none = np.empty((num_users, 0), dtype=np.float32)
    return Users(name=name, offsets=offsets, item_rows=np.concatenate(histories), vectors=none)


async def publish(users: Users, bundle: Bundle, store_url: str, *, states: bool = True) -> None:
    """Writes users' states and the vectors of the bundle's model version to the store; vectors only if not `states`."""
    version, vocabulary = bundle.manifest.model_version, bundle.item_vocabulary
    async with redis.asyncio.Redis.from_url(store_url, protocol=2) as client:
        for start in range(0, len(users), _USERS_PER_WRITE):
            values: dict[str | bytes, bytes] = {}
            for user in range(start, min(start + _USERS_PER_WRITE, len(users))):
                user_id = users.user_id(user)
                state = users.state(user, vocabulary)
                if states:
                    values[user_state_key(user_id)] = state.to_bytes()
                if user % USERS_WITHOUT_VECTOR:
                    vector = UserVector(state.revision, users.vectors[user])
                    values[user_vector_key(version, user_id)] = vector.to_bytes()
            await client.mset(values)
