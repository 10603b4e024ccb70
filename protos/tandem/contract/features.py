"""Feature schema, and the functions that turn raw state into model inputs, in training and in serving.

The user tower reads item VECTORS, not item rows: the history is looked up in the bundle's item vectors before the tower
runs. An item that was encoded after training can therefore be part of a history like any other, and the tower's file
contains no item table.

Ages are measured from the newest event of the history, not from the clock. A user vector then depends on the state
alone, and a stored vector stays equal to a computed one, however much later it is read. For the same reason the derived
user features (`history_features`) measure how long the user was away before the newest event, not how long ago it was.
"""

from __future__ import annotations

import hashlib
import json
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Final, Protocol

import numpy as np
import numpy.typing as npt

from tandem.contract import names
from tandem.contract.numbers import finite_number
from tandem.contract.store import MAX_RECENT_EVENTS, UserState
from tandem.contract.vocabulary import MISSING_ROW, NO_KEYS, NO_ROWS, Keys, Rows, id_keys

Tensors = dict[str, npt.NDArray[np.generic]]
"""Model inputs by tensor name."""


class KeyRows(Protocol):
    """Maps item keys to rows: a `Vocabulary`, or a vocabulary extended by items that were added later."""

    def rows_of_keys(self, keys: Keys) -> Rows:
        """(n,) uint64 -> (n,) int64, MISSING_ROW where the key is unknown."""
        ...


class RowVectors(Protocol):
    """Maps rows to item vectors: an array (items, dim), or an object that is indexed like one."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(items, dim)."""
        ...

    def __getitem__(self, rows: Rows, /) -> npt.NDArray[np.float32]:
        """(...) int64, no MISSING_ROW -> (..., dim) float32."""
        ...


DEFAULT_TEXT_MAX_TOKENS: Final = 256
"""Default of `FeatureSchema.text_max_tokens`, also for bundles whose schema lacks the field."""


@dataclass(frozen=True)
class UserFeature:
    """A user feature: either categorical (`values`) or numeric and split into buckets (`boundaries`)."""

    name: str
    values: tuple[str, ...] = ()
    """Known values; the code of values[i] is i + 1."""
    boundaries: tuple[float, ...] = ()
    """Ascending and finite; the code of a number x is 1 + (number of boundaries <= x)."""

    @property
    def num_codes(self) -> int:
        """Number of codes, including 0 for a missing or unknown value."""
        return len(self.values) + 1 if self.values else len(self.boundaries) + 2

    def code(self, raw: str | None) -> int:
        """The code of a raw value; 0 if it is missing or unknown, or if a numeric feature is not a finite number."""
        if raw is None:
            return 0
        if self.values:
            return self.values.index(raw) + 1 if raw in self.values else 0
        number = finite_number(raw)
        return 0 if number is None else bisect_right(self.boundaries, number) + 1

    def codes(self, numbers: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
        """The codes of a float64 array of any shape; 0 for NaN. For numeric features only."""
        found = np.searchsorted(self.boundaries, numbers, side="right") + 1
        return np.where(np.isnan(numbers), 0, found).astype(np.int64)


@dataclass(frozen=True)
class FeatureSchema:
    """The features that the towers read, and how raw values become codes. Stored in the manifest of every bundle."""

    history_length: int
    """Number of events that the user tower reads."""
    user_features: tuple[UserFeature, ...] = ()
    item_categories: tuple[str, ...] = ()
    """Known categories; the code of item_categories[i] is i + 1."""
    max_item_categories: int = 0
    """Maximum number of categories per item that the item tower reads; the rest is ignored."""
    text_encoder: str = ""
    """Name of the frozen text encoder; empty when the catalogue has no text."""
    text_dim: int = 0
    """Width of a text embedding; 0 when the catalogue has no text."""
    text_max_tokens: int = DEFAULT_TEXT_MAX_TOKENS
    """Texts are truncated to this many tokens before encoding."""
    user_ids: bool = False
    """Whether the user tower reads an id embedding; if so, the bundle contains the user vocabulary."""

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the schema's canonical JSON, hex."""
        fields = asdict(self)
        # Older schemas lack this field: leaving it out at its default keeps their fingerprints unchanged.
        if self.text_max_tokens == DEFAULT_TEXT_MAX_TOKENS:
            del fields["text_max_tokens"]
        return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()

    @classmethod
    def from_dict(cls, raw: Mapping[str, object]) -> FeatureSchema:
        """Parses the schema of a manifest. Raises TypeError or ValueError on unknown or missing fields."""
        fields = dict(raw)
        features = fields.pop("user_features", ())
        if not isinstance(features, Sequence):
            raise TypeError("user_features must be a list")
        user_features = tuple(
            UserFeature(f["name"], tuple(f["values"]), tuple(float(b) for b in f["boundaries"])) for f in features
        )
        categories = fields.pop("item_categories", ())
        if not isinstance(categories, Sequence):
            raise TypeError("item_categories must be a list")
        return cls(user_features=user_features, item_categories=tuple(categories), **fields)  # type: ignore[arg-type]


def encode_category_codes(categories: Sequence[Sequence[str]], schema: FeatureSchema) -> npt.NDArray[np.int64]:
    """Encodes item categories, skipping unknown ones. Returns (items, max_item_categories) int64, padded with 0."""
    codes_by_name = {name: code for code, name in enumerate(schema.item_categories, start=1)}
    codes = np.zeros((len(categories), schema.max_item_categories), dtype=np.int64)
    for row, item_categories in enumerate(categories):
        known = [codes_by_name[name] for name in item_categories if name in codes_by_name][: schema.max_item_categories]
        codes[row, : len(known)] = known
    return codes


def encode_index(rows: Rows) -> npt.NDArray[np.int64]:
    """Rows as indices of an id embedding: row + 1, so that MISSING_ROW maps to the out-of-vocabulary index 0."""
    return (rows + 1).astype(np.int64)


HISTORY_FEATURES = (
    UserFeature(names.NUM_EVENTS, boundaries=(2.0, 3.0, 5.0, 9.0, 17.0, 33.0, 65.0, 129.0)),
    UserFeature(names.DAYS_BEFORE_NEWEST, boundaries=(0.04, 1.0, 3.0, 7.0, 30.0, 90.0, 365.0)),
)
"""The features that `history_features` computes, as they stand in a schema that has them."""
_HISTORY_FEATURE_NAMES = frozenset(feature.name for feature in HISTORY_FEATURES)
_MICROSECONDS_PER_DAY = 86_400e6


def history_features(
    num_events: npt.NDArray[np.int64], newest_times: npt.NDArray[np.int64], previous_times: npt.NDArray[np.int64]
) -> dict[str, npt.NDArray[np.float64]]:
    """Derived features of histories: float64 arrays by feature name, all of the inputs' shape.

    `num_events` counts the events; `newest_times` and `previous_times` are the times of the newest event and of the one
    before it, in microseconds, 0 if there is no such event or its time is unknown. NUM_EVENTS is at most
    MAX_RECENT_EVENTS, since a state keeps no more; DAYS_BEFORE_NEWEST is NaN unless both times are known.
    """
    known = (newest_times > 0) & (previous_times > 0)
    return {
        names.NUM_EVENTS: np.minimum(num_events, MAX_RECENT_EVENTS).astype(np.float64),
        names.DAYS_BEFORE_NEWEST: np.where(known, (newest_times - previous_times) / _MICROSECONDS_PER_DAY, np.nan),
    }


def encode_user_feature_codes(states: Sequence[UserState], schema: FeatureSchema) -> npt.NDArray[np.int64]:
    """Encodes user features, both from the data and derived. Returns (users, features) int64."""
    codes = np.zeros((len(states), len(schema.user_features)), dtype=np.int64)
    derived: dict[str, npt.NDArray[np.float64]] = {}
    if any(feature.name in _HISTORY_FEATURE_NAMES for feature in schema.user_features):
        counts = np.array([len(state.event_times) for state in states], dtype=np.int64)
        newest = np.array([state.event_times[-1] if len(state.event_times) else 0 for state in states], dtype=np.int64)
        previous = [state.event_times[-2] if len(state.event_times) > 1 else 0 for state in states]
        derived = history_features(counts, newest, np.array(previous, dtype=np.int64))
    for column, feature in enumerate(schema.user_features):
        if feature.name in derived:
            codes[:, column] = feature.codes(derived[feature.name])
        else:
            codes[:, column] = [feature.code(state.features.get(feature.name)) for state in states]
    return codes


@dataclass(frozen=True)
class History:
    """Histories of a batch of users, right-aligned: the newest event is in the last column.

    Events on items outside the vocabulary are dropped before the newest `history_length` events are taken.
    """

    rows: Rows
    """(users, history_length) int64, MISSING_ROW where there is no event."""
    event_codes: npt.NDArray[np.int64]
    """(users, history_length) int64, 0 where there is no event."""
    ages: npt.NDArray[np.float32]
    """(users, history_length) float32, seconds from the event to the user's newest event; 0 if a time is unknown."""


def encode_histories(states: Sequence[UserState], vocabulary: KeyRows, history_length: int) -> History:
    """Builds the histories of users from their states. See `History` for shapes."""
    rows = np.full((len(states), history_length), MISSING_ROW, dtype=np.int64)
    codes = np.zeros((len(states), history_length), dtype=np.int64)
    ages = np.zeros((len(states), history_length), dtype=np.float32)
    # One lookup for the whole batch: one per user would take most of this function's time.
    batch_rows = vocabulary.rows_of_keys(np.concatenate([NO_KEYS, *(state.event_item_keys for state in states)]))
    end = 0
    for user, state in enumerate(states):
        start, end = end, end + len(state.event_item_keys)
        event_rows = batch_rows[start:end]
        kept = np.flatnonzero(event_rows != MISSING_ROW)[-history_length:]
        if len(kept) == 0:
            continue
        rows[user, -len(kept) :] = event_rows[kept]
        codes[user, -len(kept) :] = state.event_codes[kept]
        times = state.event_times[kept]
        ages[user, -len(kept) :] = event_ages(times, times[-1])
    return History(rows, codes, ages)


def older_rows(states: Sequence[UserState], vocabulary: KeyRows) -> list[Rows]:
    """Rows of the items that each user chose before the events of a full history: (n,) int64, in the order of keys.

    A state keeps all items that a user has seen, and the newest events. As long as these are not all that a state can
    hold, every other seen item was rated too low to be a choice, see `UserState.with_events`; in a full history, such
    an item is not told from an old choice, and counts as one.
    """
    full = [len(state.event_item_keys) >= MAX_RECENT_EVENTS for state in states]
    keys_by_user = [
        np.setdiff1d(state.seen_item_keys, state.event_item_keys[-MAX_RECENT_EVENTS:], assume_unique=True)
        if is_full
        else NO_KEYS
        for state, is_full in zip(states, full, strict=True)
    ]
    if not any(full):
        return [NO_ROWS] * len(states)
    rows = vocabulary.rows_of_keys(np.concatenate(keys_by_user))
    ends = np.cumsum([len(keys) for keys in keys_by_user])
    return [user_rows[user_rows != MISSING_ROW] for user_rows in np.split(rows, ends[:-1])]


def event_ages(times: npt.NDArray[np.int64], newest: npt.NDArray[np.int64] | np.int64) -> npt.NDArray[np.float64]:
    """Seconds from each event to the newest, 0 if its time is unknown. Times are in microseconds, of any shape."""
    ages: npt.NDArray[np.float64] = np.where(times > 0, (newest - times) * 1e-6, 0.0)
    return ages


def encode_users(
    states: Sequence[UserState],
    *,
    schema: FeatureSchema,
    item_vocabulary: KeyRows,
    item_vectors: RowVectors,
    user_index: npt.NDArray[np.int64] | None = None,
) -> Tensors:
    """Inputs of the user tower for a batch of users.

    `item_vectors` is (items, dim) float32; `user_index` is (users,) int64, `encode_index` of the users' rows in the
    user vocabulary, and is read only if the schema has `user_ids`.

    Returns history_vectors (users, history_length, dim) float32, zero where there is no event; history_event_codes
    (users, history_length) int64; history_ages (users, history_length) float32; user_feature_codes (users, features)
    int64 if the schema has user features; user_index (users,) int64 if it has user ids.
    """
    history = encode_histories(states, item_vocabulary, schema.history_length)
    vectors = np.zeros((*history.rows.shape, item_vectors.shape[1]), dtype=np.float32)
    present = history.rows != MISSING_ROW
    vectors[present] = item_vectors[history.rows[present]]
    tensors: Tensors = {
        names.HISTORY_VECTORS: vectors,
        names.HISTORY_EVENT_CODES: history.event_codes,
        names.HISTORY_AGES: history.ages,
    }
    if schema.user_features:
        tensors[names.USER_FEATURE_CODES] = encode_user_feature_codes(states, schema)
    if schema.user_ids:
        tensors[names.USER_INDEX] = np.zeros(len(states), dtype=np.int64) if user_index is None else user_index
    return tensors


def tower_inputs(tensors: Tensors, shapes: Mapping[str, Sequence[int | str | None]]) -> Tensors:
    """Selects the tensors that a model reads, given the names and shapes of its inputs as ONNX Runtime reports them.

    A user tower whose number of events is a dynamic dimension takes shorter histories too. It gets only as many columns
    as the longest history of the batch needs, at least one: the other columns are padding, and leaving them out gives
    the same vectors in less time.
    """
    fixed = any(isinstance(shapes[name][1], int) for name in names.HISTORY if name in shapes)
    first = 0 if fixed or names.HISTORY_EVENT_CODES not in shapes else _first_column(tensors)
    return {
        name: np.ascontiguousarray(tensors[name][:, first:]) if first and name in names.HISTORY else tensors[name]
        for name in shapes
    }


def _first_column(tensors: Tensors) -> int:
    """The first column in which any history has an event; the last column if there are no events."""
    events = (tensors[names.HISTORY_EVENT_CODES] != 0).any(axis=0)
    return int(events.argmax()) if events.any() else len(events) - 1


def with_recent_items(state: UserState, recent_item_ids: Sequence[str], event_code: int) -> UserState:
    """The state with these items, newest last, added as events at the time of its newest event; same revision."""
    recent: Keys = id_keys(recent_item_ids)
    newest = int(state.event_times[-1]) if len(state.event_times) else 0
    codes = np.full(len(recent), event_code, dtype=np.uint8)
    after = state.with_events(recent, codes, np.full(len(recent), newest, dtype=np.int64))
    return replace(after, revision=state.revision)
