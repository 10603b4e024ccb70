"""Feature schema, and the one function that turns raw state into model inputs, in training and in serving.

The user tower reads item VECTORS, not item rows: the history is looked up in the bundle's item vectors before the tower
runs. So an item that the item tower has encoded after training can be read as history like any other, and the tower's
file holds no item table.

Ages are measured from the newest event of the history, not from the clock: a vector then depends on the state alone,
and a stored one stays equal to a computed one however much later it is read. For the same reason the derived user
features (`history_features`) say how long the user was away before the newest event, not how long ago that was.
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
from tandem.contract.store import MAX_RECENT_EVENTS, UserState
from tandem.contract.vocabulary import MISSING_ROW, NO_KEYS, Keys, Rows, id_keys

Tensors = dict[str, npt.NDArray[np.generic]]
"""Model inputs by tensor name."""


class KeyRows(Protocol):
    """Rows of items by their keys: a `Vocabulary`, or one with items that came after it was made."""

    def rows_of_keys(self, keys: Keys) -> Rows:
        """(n,) uint64 -> (n,) int64, MISSING_ROW where the key is unknown."""
        ...


class RowVectors(Protocol):
    """Vectors of items by their rows: an array (items, dim), or what stands for one."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(items, dim)."""
        ...

    def __getitem__(self, rows: Rows, /) -> npt.NDArray[np.float32]:
        """(...) int64, no MISSING_ROW -> (..., dim) float32."""
        ...


DEFAULT_TEXT_MAX_TOKENS: Final = 256
"""Where texts are cut unless told otherwise, and in bundles that do not say."""


@dataclass(frozen=True)
class UserFeature:
    """One user feature: categorical (`values`) or numeric, cut into buckets (`boundaries`). Exactly one of the two."""

    name: str
    values: tuple[str, ...] = ()
    """Known values; the code of values[i] is i + 1."""
    boundaries: tuple[float, ...] = ()
    """Ascending; a number x has the code 1 + (how many boundaries are <= x)."""

    @property
    def num_codes(self) -> int:
        """Number of codes, the 0 of a missing or unknown value included."""
        return len(self.values) + 1 if self.values else len(self.boundaries) + 2

    def code(self, raw: str | None) -> int:
        """The code of a raw value; 0 when it is missing, unknown, or not a number where one is needed."""
        if raw is None:
            return 0
        if self.values:
            return self.values.index(raw) + 1 if raw in self.values else 0
        try:
            number = float(raw)
        except ValueError:
            return 0
        return 0 if number != number else bisect_right(self.boundaries, number) + 1

    def codes(self, numbers: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
        """The codes of numbers in any shape, float64; 0 for NaN. Only for a numeric feature."""
        found = np.searchsorted(self.boundaries, numbers, side="right") + 1
        return np.where(np.isnan(numbers), 0, found).astype(np.int64)


@dataclass(frozen=True)
class FeatureSchema:
    """Which features the towers read, and how raw values become codes. Stored in the manifest of every bundle."""

    history_length: int
    """Events the user tower reads."""
    user_features: tuple[UserFeature, ...] = ()
    item_categories: tuple[str, ...] = ()
    """Known categories; the code of item_categories[i] is i + 1."""
    max_item_categories: int = 0
    """Categories of one item that the item tower reads; further ones are left out."""
    text_encoder: str = ""
    """Name of the frozen text encoder; empty when the catalogue has no text."""
    text_dim: int = 0
    """Width of a text embedding; 0 when the catalogue has no text."""
    text_max_tokens: int = DEFAULT_TEXT_MAX_TOKENS
    """The encoder reads a text up to so many tokens."""
    user_ids: bool = False
    """Whether the user tower reads an id embedding; the bundle then carries the users' vocabulary."""

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the schema's canonical JSON, hex."""
        fields = asdict(self)
        # Schemas had no such field once: left out at its default, their fingerprints stay what they were.
        if self.text_max_tokens == DEFAULT_TEXT_MAX_TOKENS:
            del fields["text_max_tokens"]
        return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()

    @classmethod
    def from_dict(cls, raw: Mapping[str, object]) -> FeatureSchema:
        """The schema of a manifest. Raises TypeError or ValueError on unknown or missing fields."""
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
    """Categories of items as codes; unknown ones are left out. Returns (items, max_item_categories) int64, 0-padded."""
    codes_by_name = {name: code for code, name in enumerate(schema.item_categories, start=1)}
    codes = np.zeros((len(categories), schema.max_item_categories), dtype=np.int64)
    for row, item_categories in enumerate(categories):
        known = [codes_by_name[name] for name in item_categories if name in codes_by_name][: schema.max_item_categories]
        codes[row, : len(known)] = known
    return codes


def encode_index(rows: Rows) -> npt.NDArray[np.int64]:
    """Rows as inputs of an id embedding: row + 1, so that a missing row reads the out-of-vocabulary row 0."""
    return (rows + 1).astype(np.int64)


HISTORY_FEATURES = (
    UserFeature(names.NUM_EVENTS, boundaries=(2.0, 3.0, 5.0, 9.0, 17.0, 33.0, 65.0, 129.0)),
    UserFeature(names.DAYS_BEFORE_NEWEST, boundaries=(0.04, 1.0, 3.0, 7.0, 30.0, 90.0, 365.0)),
)
"""What `history_features` computes, as a schema has it where it is switched on."""
_HISTORY_FEATURE_NAMES = frozenset(feature.name for feature in HISTORY_FEATURES)
_MICROSECONDS_PER_DAY = 86_400e6


def history_features(
    num_events: npt.NDArray[np.int64], newest_times: npt.NDArray[np.int64], previous_times: npt.NDArray[np.int64]
) -> dict[str, npt.NDArray[np.float64]]:
    """Derived features of histories, arrays of one shape: float64 by feature name.

    `num_events` counts the events, `newest_times` and `previous_times` are those of the newest event and the one before
    it, in microseconds, 0 where there is none or its time is unknown. NUM_EVENTS is at most MAX_RECENT_EVENTS, as a
    state keeps no more; DAYS_BEFORE_NEWEST is NaN without two times.
    """
    known = (newest_times > 0) & (previous_times > 0)
    return {
        names.NUM_EVENTS: np.minimum(num_events, MAX_RECENT_EVENTS).astype(np.float64),
        names.DAYS_BEFORE_NEWEST: np.where(known, (newest_times - previous_times) / _MICROSECONDS_PER_DAY, np.nan),
    }


def encode_user_feature_codes(states: Sequence[UserState], schema: FeatureSchema) -> npt.NDArray[np.int64]:
    """User features as codes, those that come with the data and derived ones. Returns (users, features) int64."""
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
    """Histories of a batch of users, aligned to the right: the newest event is in the last column.

    Events on items that the vocabulary does not hold are left out before the newest `history_length` are taken.
    """

    rows: Rows
    """(users, history_length) int64, MISSING_ROW where there is no event."""
    event_codes: npt.NDArray[np.int64]
    """(users, history_length) int64, 0 where there is no event."""
    ages: npt.NDArray[np.float32]
    """(users, history_length) float32, seconds from the event to the user's newest one; 0 where times are unknown."""


def encode_histories(states: Sequence[UserState], vocabulary: KeyRows, history_length: int) -> History:
    """Reads the histories out of user states. See `History` for shapes."""
    rows = np.full((len(states), history_length), MISSING_ROW, dtype=np.int64)
    codes = np.zeros((len(states), history_length), dtype=np.int64)
    ages = np.zeros((len(states), history_length), dtype=np.float32)
    # One look-up for the whole batch: for each user alone it would take most of this function's time.
    every_row = vocabulary.rows_of_keys(np.concatenate([NO_KEYS, *(state.event_item_keys for state in states)]))
    end = 0
    for user, state in enumerate(states):
        start, end = end, end + len(state.event_item_keys)
        event_rows = every_row[start:end]
        kept = np.flatnonzero(event_rows != MISSING_ROW)[-history_length:]
        if len(kept) == 0:
            continue
        rows[user, -len(kept) :] = event_rows[kept]
        codes[user, -len(kept) :] = state.event_codes[kept]
        times = state.event_times[kept]
        ages[user, -len(kept) :] = event_ages(times, times[-1])
    return History(rows, codes, ages)


def event_ages(times: npt.NDArray[np.int64], newest: npt.NDArray[np.int64] | np.int64) -> npt.NDArray[np.float64]:
    """Seconds from events to the newest one, 0 where the time is unknown; times in microseconds, any shape."""
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

    `item_vectors` is (items, dim) float32; `user_index` is (users,) int64 as `encode_index` makes it from rows of the
    users' vocabulary, and is read only where the schema has `user_ids`.

    Returns history_vectors (users, history_length, dim) float32, zero where there is no event; history_event_codes
    (users, history_length) int64; history_ages (users, history_length) float32; user_feature_codes (users, features)
    int64 where the schema has features; user_index (users,) int64 where it has user ids.
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
    """What a model reads of these tensors, by the names and shapes of its inputs as ONNX Runtime tells them.

    A user tower whose number of events has a name instead of a number takes shorter histories too. It gets no more
    columns than the longest history of the batch has, at least one: the rest is what histories are filled up with, so
    the vectors are the same, and come sooner.
    """
    fixed = any(isinstance(shapes[name][1], int) for name in names.HISTORY if name in shapes)
    first = 0 if fixed or names.HISTORY_EVENT_CODES not in shapes else _first_column(tensors)
    return {
        name: np.ascontiguousarray(tensors[name][:, first:]) if first and name in names.HISTORY else tensors[name]
        for name in shapes
    }


def _first_column(tensors: Tensors) -> int:
    """The first column in which any history has an event; the last one where none has."""
    events = (tensors[names.HISTORY_EVENT_CODES] != 0).any(axis=0)
    return int(events.argmax()) if events.any() else len(events) - 1


def with_recent_items(state: UserState, recent_item_ids: Sequence[str], event_code: int) -> UserState:
    """The state as it will be once these items, newest last, have arrived as events at the time of its newest event."""
    recent: Keys = id_keys(recent_item_ids)
    newest = int(state.event_times[-1]) if len(state.event_times) else 0
    codes = np.full(len(recent), event_code, dtype=np.uint8)
    after = state.with_events(recent, codes, np.full(len(recent), newest, dtype=np.int64))
    return replace(after, revision=state.revision)
