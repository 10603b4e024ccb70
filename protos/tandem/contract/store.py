"""Online-store keys and value bytes.

Values are packed by hand, not with protobuf: protobuf does not promise stable bytes, and these bytes are pinned by
golden tests, because programs of different releases read each other's values. Every value begins with its format
number. Values are little-endian and 8-byte aligned, so that a reader gets arrays from the buffer without copying.

| key                                        | value         | written by                    |
| ------------------------------------------ | ------------- | ----------------------------- |
| `tandem/1/state/{user_id}`                 | `UserState`   | feature_sync                  |
| `tandem/1/vector/{model_version}/{user_id}` | `UserVector` | feature_sync                  |
| `tandem/1/published/{model_version}`       | a fingerprint | feature_sync, when it is done |
| `tandem/1/populated`                       | a fingerprint | feature_sync, when it is done; never expires |
| `tandem/1/trending`                        | `TrendingItems` | feature_sync                |
| `tandem/1/item-counters/{item_id}`         | hash: event type -> events ever applied | feature_sync |
| `tandem/1/deleted-users`                   | hash: SHA-256 of a user id -> when it was deleted | feature_sync |

The keys of streams are in `streams`, those of the live catalogue in `live_items`, those that servers write in
`announced`.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Final

import numpy as np
import numpy.typing as npt

from tandem.contract import names
from tandem.contract.errors import StoreValueError
from tandem.contract.pairs import (
    MERGED,
    NOTHING_MERGED,
    Entries,
    Merged,
    moved,
    positions_of,
    stand,
    with_counts,
)
from tandem.contract.vocabulary import NO_KEYS, Keys

MAX_ID_BYTES = 256
"""Maximum length of an external id, in bytes of UTF-8."""
MAX_RECENT_EVENTS = 200
"""Number of events that a state keeps; of older events it keeps only the items, as seen."""

MAX_SEEN_ITEMS: Final = 50_000
"""Number of seen items that a state keeps, 400 kB: a person never sees as many, and whoever may record events could
make a state of any size."""

KEY_PREFIX = b"tandem/1/"
"""Prefix of every key; the number is the version of the key schema."""
_STATE_FORMAT = 3
_STATE_FORMAT_WITHOUT_MERGED = 2
_STATE_FORMAT_WITHOUT_COUNTS = 1
_READABLE_STATE_FORMATS: Final = (_STATE_FORMAT, _STATE_FORMAT_WITHOUT_MERGED, _STATE_FORMAT_WITHOUT_COUNTS)
_VECTOR_FORMAT = 1
_STATE_HEADER = struct.Struct("<B7xQIIII")  # format, revision, events, seen items, bytes of features, merged
_COUNTS_BYTES = 4 * len(names.EVENT_TYPES)
_TRENDING_FORMAT = 1
_TRENDING_HEADER = struct.Struct("<B3xI")  # format, items
_VECTOR_HEADER = struct.Struct("<B3xIQ")  # format, dimension, revision of the state it was computed from

_NO_CODES: npt.NDArray[np.uint8] = np.empty(0, dtype=np.uint8)
_NO_TIMES: npt.NDArray[np.int64] = np.empty(0, dtype=np.int64)
_NO_COUNTS: npt.NDArray[np.uint32] = np.zeros(len(names.EVENT_TYPES), dtype=np.uint32)
_IMPRESSION: Final = names.EVENT_CODES["impression"]


def user_state_key(user_id: str) -> bytes:
    """Key of a user's state. It carries no model version: behaviour outlives models."""
    return KEY_PREFIX + b"state/" + user_id.encode()


def user_vector_key(model_version: str, user_id: str) -> bytes:
    """Key of a user's vector under one bundle. Vectors of different versions are not comparable."""
    return KEY_PREFIX + b"vector/" + model_version.encode() + b"/" + user_id.encode()


def published_key(model_version: str) -> bytes:
    """Key of the fingerprint of the data that a bundle's vectors were completely published from."""
    return KEY_PREFIX + b"published/" + model_version.encode()


def populated_key() -> bytes:
    """Key of the fingerprint of the data whose states were last published, under whatever bundle.

    It does not expire: a store without it has lost its states, or never had any.
    """
    return KEY_PREFIX + b"populated"


def trending_key() -> bytes:
    """Key of the currently trending items, the same for all users."""
    return KEY_PREFIX + b"trending"


def deleted_users_key() -> bytes:
    """Key of the register of deleted users, see `deleted_users`. Whoever writes a state watches it: a deletion makes
    the transaction begin anew."""
    return KEY_PREFIX + b"deleted-users"


def user_id_of_vector_key(key: bytes) -> bytes:
    """The user id in a key that `user_vector_key` made. A model version holds no slash, a user id may."""
    return key.removeprefix(user_vector_key("", "")[:-1]).partition(b"/")[2]


def item_counters_key(item_id: str) -> bytes:
    """Key of the hash that counts an item's events by type."""
    return KEY_PREFIX + b"item-counters/" + item_id.encode()


@dataclass(frozen=True)
class UserState:
    """What is known about one user, independent of any model. Event arrays are ordered, oldest event first."""

    revision: int = 0
    """Grows with every change of the state; a vector computed from another revision is stale."""
    event_item_keys: Keys = field(default_factory=NO_KEYS.copy)
    """(n,) uint64, at most MAX_RECENT_EVENTS."""
    event_codes: npt.NDArray[np.uint8] = field(default_factory=_NO_CODES.copy)
    """(n,) uint8, see names.EVENT_CODES."""
    event_times: npt.NDArray[np.int64] = field(default_factory=_NO_TIMES.copy)
    """(n,) int64, microseconds since 1970; 0 if the data give an order but no time."""
    seen_item_keys: Keys = field(default_factory=NO_KEYS.copy)
    """(m,) uint64, sorted and unique: all items the user ever interacted with, those that they rated low included; at
    most MAX_SEEN_ITEMS after events."""
    features: Mapping[str, str] = field(default_factory=dict)
    """Raw user features by name, for example {"age": "49"}."""
    event_counts: npt.NDArray[np.uint32] = field(default_factory=_NO_COUNTS.copy)
    """(6,) uint32, number of events ever applied, in the order of names.EVENT_TYPES."""
    merged: Merged = field(default_factory=NOTHING_MERGED.copy)
    """(k,) of pairs.MERGED: the events of the history that stand for several."""

    @property
    def entries(self) -> Entries:
        """The history, with all events that each of its events stands for."""
        return Entries.of(self.event_item_keys, self.event_codes, self.event_times, self.merged)

    def with_entries(self, entries: Entries) -> UserState:
        """The state with the newest MAX_RECENT_EVENTS of these as its history; seen items and all else stay."""
        newest = entries[-MAX_RECENT_EVENTS:]
        return replace(
            self,
            event_item_keys=newest.item_keys,
            event_codes=newest.codes,
            event_times=newest.times,
            merged=newest.merged,
        )

    @classmethod
    def from_events(
        cls,
        item_keys: Keys,
        event_codes: npt.NDArray[np.uint8],
        event_times: npt.NDArray[np.int64],
        *,
        features: Mapping[str, str],
        revision: int = 1,
        low_rated_keys: Keys = NO_KEYS,
    ) -> UserState:
        """The state after a user's whole history: (n,) arrays, oldest event first, dtypes as in the fields.

        `low_rated_keys`, (m,) uint64 in any order, are items that the user rated too low for the history: only seen.
        """
        return cls(
            revision=revision,
            event_item_keys=item_keys[-MAX_RECENT_EVENTS:],
            event_codes=event_codes[-MAX_RECENT_EVENTS:],
            event_times=event_times[-MAX_RECENT_EVENTS:],
            seen_item_keys=np.union1d(item_keys, low_rated_keys),
            features=features,
            event_counts=_counts(event_codes),
        )

    @classmethod
    def from_entries(
        cls, entries: Entries, *, features: Mapping[str, str], revision: int = 1, low_rated_keys: Keys = NO_KEYS
    ) -> UserState:
        """`from_events`, of entries that may stand for several events each, all of which are counted."""
        state = cls.from_events(
            entries.item_keys,
            entries.codes,
            entries.times,
            features=features,
            revision=revision,
            low_rated_keys=low_rated_keys,
        )
        return replace(
            state.with_entries(entries), event_counts=entries.counts.sum(axis=0, dtype=np.int64).astype(np.uint32)
        )

    def with_events(
        self,
        item_keys: Keys,
        event_codes: npt.NDArray[np.uint8],
        event_times: npt.NDArray[np.int64],
        *,
        low_rated: npt.NDArray[np.bool_] | None = None,
        strengths: npt.NDArray[np.float64] | None = None,
    ) -> UserState:
        """The state with these events added: (n,) arrays in order of arrival.

        All events are counted, and the items of all but impressions are seen. The history gets one event of each item
        that is neither an impression nor in `low_rated`, (n,) bool, as in the trainer's cleaning, ordered by time: a
        late event is inserted at its time, unless MAX_RECENT_EVENTS newer events are present. With `strengths`, (7,)
        float64 by event code, the strongest event of an item is in the history, see `event_rule`; without, the first
        that arrived. The revision grows by one.

        An item that was only rated low so far enters the history with a later event, unless the history is full: then
        the state no longer tells such an item from one with an older event. Of items that are seen and not in a full
        history, only an event enters it that is stronger than the weakest type: it is most likely the first of its
        kind.
        """
        is_choice = event_codes != _IMPRESSION
        seen = np.union1d(self.seen_item_keys, item_keys[is_choice])
        counted = replace(
            self,
            revision=self.revision + 1,
            event_counts=self.event_counts + _counts(event_codes),
            seen_item_keys=_bounded(seen, self.event_item_keys),
        )
        if low_rated is not None:
            is_choice &= ~low_rated
        is_full = len(self.event_item_keys) >= MAX_RECENT_EVENTS
        if strengths is None:
            chosen_before = self.seen_item_keys if is_full else np.sort(self.event_item_keys)
            new = np.flatnonzero(is_choice & ~_is_among(item_keys, chosen_before))
        else:
            if is_full:
                is_known = _is_among(item_keys, np.sort(self.event_item_keys))
                is_old = _is_among(item_keys, self.seen_item_keys) & ~is_known
                is_choice &= ~is_old | (strengths[event_codes] > strengths[_IMPRESSION + 1 :].min())
            new = np.flatnonzero(is_choice)
        if len(new) == 0:
            return counted
        state = (
            counted._with_first(item_keys[new], event_codes[new], event_times[new])
            if strengths is None
            else counted._with_strongest(item_keys[new], event_codes[new], event_times[new], strengths)
        )
        return replace(state, seen_item_keys=_bounded(seen, state.event_item_keys))

    def _with_first(
        self, item_keys: Keys, event_codes: npt.NDArray[np.uint8], event_times: npt.NDArray[np.int64]
    ) -> UserState:
        """The first event of each item added to the history, which has none of these items."""
        by_time = np.argsort(event_times, kind="stable")
        _, firsts = np.unique(item_keys[by_time], return_index=True)
        chosen = by_time[np.sort(firsts)]
        times = np.concatenate([self.event_times, event_times[chosen]])
        # Stored events are already in order, including those without a time (0); a stable sort keeps that order.
        order = np.argsort(times, kind="stable")[-MAX_RECENT_EVENTS:]
        return replace(
            self,
            event_item_keys=np.concatenate([self.event_item_keys, item_keys[chosen]])[order],
            event_codes=np.concatenate([self.event_codes, event_codes[chosen]])[order],
            event_times=times[order],
            merged=moved(self.merged, order) if len(self.merged) else self.merged,
        )

    def _with_strongest(
        self,
        item_keys: Keys,
        event_codes: npt.NDArray[np.uint8],
        event_times: npt.NDArray[np.int64],
        strengths: npt.NDArray[np.float64],
    ) -> UserState:
        """These events merged with the history."""
        positions = positions_of(item_keys, self.event_item_keys)
        fresh, again = np.flatnonzero(positions < 0), np.flatnonzero(positions >= 0)
        standing = positions[again]
        stays = stand(
            self.event_codes[standing], self.event_times[standing], event_codes[again], event_times[again], strengths
        )
        if not stays.all() or len(set(item_keys[fresh].tolist())) < len(fresh):
            entries = Entries.joined((self.entries, Entries.of(item_keys, event_codes, event_times)))
            return self.with_entries(entries.one_of_each_item(strengths))
        # The same result in half of the time: no event of the history gives way.
        state = self
        if len(again):
            counted = with_counts(
                self.merged,
                standing,
                event_codes[again],
                event_times[again],
                history_codes=self.event_codes,
                history_times=self.event_times,
            )
            state = replace(self, merged=counted)
        return state._with_first(item_keys[fresh], event_codes[fresh], event_times[fresh]) if len(fresh) else state

    def to_bytes(self) -> bytes:
        """Packs the state: header, counts, merged events, event times, event keys, seen keys, event codes, features as
        sorted JSON.

        A history whose events stand for one event each is packed in format 2, which has no merged events: programs of
        an earlier release read it.
        """
        num_events = len(self.event_item_keys)
        if not len(self.event_codes) == len(self.event_times) == num_events:
            raise ValueError("event_item_keys, event_codes and event_times must have one length")
        features = json.dumps(dict(self.features), sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
        return b"".join(
            (
                _STATE_HEADER.pack(
                    _STATE_FORMAT if len(self.merged) else _STATE_FORMAT_WITHOUT_MERGED,
                    self.revision,
                    num_events,
                    len(self.seen_item_keys),
                    len(features),
                    len(self.merged),
                ),
                np.asarray(self.event_counts, dtype="<u4").tobytes(),
                np.asarray(self.merged, dtype=MERGED).tobytes(),
                np.asarray(self.event_times, dtype="<i8").tobytes(),
                np.asarray(self.event_item_keys, dtype="<u8").tobytes(),
                np.asarray(self.seen_item_keys, dtype="<u8").tobytes(),
                np.asarray(self.event_codes, dtype="u1").tobytes(),
                features,
            )
        )

    @classmethod
    def from_bytes(cls, value: bytes) -> UserState:
        """Unpacks a state; its arrays are read-only views of `value`. Raises StoreValueError.

        Formats 1 and 2 are read too: format 1 has no counts, which are then 0, and neither has merged events.
        """
        if len(value) < _STATE_HEADER.size or value[0] not in _READABLE_STATE_FORMATS:
            raise StoreValueError(f"user state: {_describe(value)} is not format {_STATE_FORMAT}")
        read_format, revision, num_events, num_seen, features_bytes, num_merged = _STATE_HEADER.unpack_from(value)
        counts_bytes = _COUNTS_BYTES if read_format != _STATE_FORMAT_WITHOUT_COUNTS else 0
        merged_bytes = MERGED.itemsize * num_merged if read_format == _STATE_FORMAT else 0
        merged_offset = _STATE_HEADER.size + counts_bytes
        times_offset = merged_offset + merged_bytes
        keys_offset = times_offset + 8 * num_events
        seen_offset = keys_offset + 8 * num_events
        codes_offset = seen_offset + 8 * num_seen
        features_offset = codes_offset + num_events
        if len(value) != features_offset + features_bytes:
            raise StoreValueError(f"user state: {len(value)} bytes, its header says {features_offset + features_bytes}")
        try:
            features = json.loads(value[features_offset:]) if features_bytes > 2 else {}
        except ValueError as error:
            raise StoreValueError(f"user state: unreadable features: {error}") from error
        if not isinstance(features, dict) or not all(isinstance(raw, str) for raw in features.values()):
            raise StoreValueError("user state: features are not an object of strings")
        merged = NOTHING_MERGED
        if merged_bytes:
            merged = np.frombuffer(value, MERGED, num_merged, merged_offset)
            if int(merged["position"].max()) >= num_events:
                raise StoreValueError(f"user state: a merged event is not among its {num_events} events")
        return cls(
            revision=revision,
            event_item_keys=np.frombuffer(value, "<u8", num_events, keys_offset),
            event_codes=np.frombuffer(value, "u1", num_events, codes_offset),
            event_times=np.frombuffer(value, "<i8", num_events, times_offset),
            seen_item_keys=np.frombuffer(value, "<u8", num_seen, seen_offset),
            features=features,
            event_counts=np.frombuffer(value, "<u4", counts_bytes // 4, _STATE_HEADER.size)
            if counts_bytes
            else _NO_COUNTS,
            merged=merged,
        )


@dataclass(frozen=True)
class UserVector:
    """A user's vector under one bundle: the cached output of its user tower for the user's state."""

    state_revision: int
    values: npt.NDArray[np.float32]
    """(dim,) float32."""

    def to_bytes(self) -> bytes:
        """Packs the vector: header, then float32 values."""
        return (
            _VECTOR_HEADER.pack(_VECTOR_FORMAT, len(self.values), self.state_revision)
            + np.asarray(self.values, dtype="<f4").tobytes()
        )

    @classmethod
    def from_bytes(cls, value: bytes) -> UserVector:
        """Unpacks a vector; its array is a read-only view of `value`. Raises StoreValueError."""
        if len(value) < _VECTOR_HEADER.size or value[0] != _VECTOR_FORMAT:
            raise StoreValueError(f"user vector: {_describe(value)} is not format {_VECTOR_FORMAT}")
        _, dim, state_revision = _VECTOR_HEADER.unpack_from(value)
        if len(value) != _VECTOR_HEADER.size + 4 * dim:
            raise StoreValueError(f"user vector: {len(value)} bytes do not hold {dim} float32 values")
        return cls(state_revision, np.frombuffer(value, "<f4", dim, _VECTOR_HEADER.size))


@dataclass(frozen=True)
class TrendingItems:
    """The currently trending items, best first. Independent of any model."""

    item_keys: Keys
    """(n,) uint64."""
    scores: npt.NDArray[np.float32]
    """(n,) float32, descending."""

    def to_bytes(self) -> bytes:
        """Packs the list: header, then uint64 keys, then float32 scores."""
        if len(self.item_keys) != len(self.scores):
            raise ValueError("item_keys and scores must have one length")
        return (
            _TRENDING_HEADER.pack(_TRENDING_FORMAT, len(self.item_keys))
            + np.asarray(self.item_keys, dtype="<u8").tobytes()
            + np.asarray(self.scores, dtype="<f4").tobytes()
        )

    @classmethod
    def from_bytes(cls, value: bytes) -> TrendingItems:
        """Unpacks a list; its arrays are read-only views of `value`. Raises StoreValueError."""
        if len(value) < _TRENDING_HEADER.size or value[0] != _TRENDING_FORMAT:
            raise StoreValueError(f"trending items: {_describe(value)} is not format {_TRENDING_FORMAT}")
        _, count = _TRENDING_HEADER.unpack_from(value)
        if len(value) != _TRENDING_HEADER.size + 12 * count:
            raise StoreValueError(f"trending items: {len(value)} bytes do not hold {count} items")
        scores_offset = _TRENDING_HEADER.size + 8 * count
        return cls(
            np.frombuffer(value, "<u8", count, _TRENDING_HEADER.size), np.frombuffer(value, "<f4", count, scores_offset)
        )


def _counts(event_codes: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint32]:
    """Counts (n,) codes by event type: (6,) uint32 in the order of names.EVENT_TYPES."""
    counts: npt.NDArray[np.uint32] = np.bincount(event_codes, minlength=len(names.EVENT_TYPES) + 1)[1:].astype(
        np.uint32
    )
    return counts


def _bounded(seen: Keys, event_item_keys: Keys) -> Keys:
    """At most MAX_SEEN_ITEMS of the seen items: those of the history, and any of the others, whose age is not known."""
    if len(seen) <= MAX_SEEN_ITEMS:
        return seen
    others = np.setdiff1d(seen, event_item_keys, assume_unique=False)
    recent = np.unique(event_item_keys)
    return np.union1d(others[: MAX_SEEN_ITEMS - len(recent)], recent)


def _is_among(keys: Keys, ascending: Keys) -> npt.NDArray[np.bool_]:
    """Whether each of `keys`, (n,), is in `ascending`, (m,): (n,) bool."""
    if len(ascending) == 0:
        return np.zeros(len(keys), dtype=np.bool_)
    positions = np.minimum(np.searchsorted(ascending, keys), len(ascending) - 1)
    found: npt.NDArray[np.bool_] = ascending[positions] == keys
    return found


def _describe(value: bytes) -> str:
    return f"format {value[0]}" if value else "an empty value"
