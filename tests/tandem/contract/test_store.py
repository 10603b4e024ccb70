"""Keys and values of the online store, pinned byte for byte: programs of two releases must read each other's."""

from __future__ import annotations

import contextlib
import dataclasses
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy

from tandem.contract.errors import StoreValueError
from tandem.contract.pairs import MERGED
from tandem.contract.store import (
    MAX_RECENT_EVENTS,
    MAX_SEEN_ITEMS,
    UserState,
    UserVector,
    published_key,
    user_state_key,
    user_vector_key,
)

STATE = UserState(
    revision=7,
    event_item_keys=np.array([1, 2], np.uint64),
    event_codes=np.array([5, 2], np.uint8),
    event_times=np.array([1_000_000, 0], np.int64),
    seen_item_keys=np.array([1, 2, 3], np.uint64),
    features={"occupation": "é", "age": "49"},
    event_counts=np.array([9, 1, 0, 0, 1, 0], np.uint32),
)
STATE_BYTES = bytes.fromhex(
    "02 00000000000000"  # format, padding
    "0700000000000000"  # revision
    "02000000 03000000 1e000000 00000000"  # events, seen, bytes of features, padding
    "09000000 01000000 00000000 00000000 01000000 00000000"  # counts by type
    "40420f0000000000 0000000000000000"  # event times
    "0100000000000000 0200000000000000"  # event keys
    "0100000000000000 0200000000000000 0300000000000000"  # seen keys
    "05 02"  # event codes
    "7b22616765223a223439222c226f636375706174696f6e223a22c3a9227d"  # {"age":"49","occupation":"é"}
)
# The second event stands for a click and two purchases; format 2, which earlier releases read, has no merged events.
MERGED_STATE = dataclasses.replace(
    STATE,
    merged=np.array([(1, (0, 1, 0, 2, 0, 0), 5_000_000)], dtype=MERGED),
)
MERGED_STATE_BYTES = (
    b"\x03"
    + STATE_BYTES[1:28]
    + bytes.fromhex("01000000")  # merged
    + STATE_BYTES[32:56]
    + bytes.fromhex("01000000 0000 0100 0000 0200 0000 0000 404b4c0000000000")  # position, counts by type, last time
    + STATE_BYTES[56:]
)
# Format 1 had no counts; stores may still contain it.
STATE_BYTES_OF_FORMAT_1 = bytes.fromhex("01") + STATE_BYTES[1:32] + STATE_BYTES[56:]
EMPTY_STATE_BYTES = bytes.fromhex(
    "0200000000000000 0000000000000000 00000000 00000000 02000000 00000000"
    "00000000 00000000 00000000 00000000 00000000 00000000 7b7d"
)
VECTOR = UserVector(3, np.array([1.0, -0.5], np.float32))
VECTOR_BYTES = bytes.fromhex("01 000000 02000000 0300000000000000 0000803f 000000bf")


def assert_equal_states(left: UserState, right: UserState) -> None:
    assert left.revision == right.revision
    assert dict(left.features) == dict(right.features)
    for name in ("event_item_keys", "event_codes", "event_times", "seen_item_keys", "event_counts", "merged"):
        left_values, right_values = getattr(left, name), getattr(right, name)
        assert left_values.dtype == right_values.dtype
        np.testing.assert_array_equal(left_values, right_values)


def merged(state: UserState) -> list[tuple[int, list[int], int]]:
    """The events that stand for several: position, counts by type, last time."""
    return [(int(row["position"]), row["counts"].tolist(), int(row["last_time"])) for row in state.merged]


class TestKeys:
    def test_state(self) -> None:
        assert user_state_key("196") == bytes.fromhex("74616e64656d2f312f73746174652f313936")

    def test_vector(self) -> None:
        expected = "74616e64656d2f312f766563746f722f6d312f313936"
        assert user_vector_key("m1", "196") == bytes.fromhex(expected) == b"tandem/1/vector/m1/196"

    def test_published(self) -> None:
        assert published_key("m1") == bytes.fromhex("74616e64656d2f312f7075626c69736865642f6d31")

    def test_ids_are_utf8(self) -> None:
        assert user_state_key("é/ ü") == bytes.fromhex("74616e64656d2f312f73746174652f c3a9 2f 20 c3bc")

    def test_two_versions_of_a_vector_have_two_keys(self) -> None:
        assert user_vector_key("m1", "196") != user_vector_key("m2", "196")


class TestUserState:
    def test_golden_bytes(self) -> None:
        assert STATE.to_bytes() == STATE_BYTES

    def test_golden_bytes_are_read(self) -> None:
        assert_equal_states(UserState.from_bytes(STATE_BYTES), STATE)

    def test_golden_bytes_of_merged_events(self) -> None:
        assert MERGED_STATE.to_bytes() == MERGED_STATE_BYTES
        assert_equal_states(UserState.from_bytes(MERGED_STATE_BYTES), MERGED_STATE)

    def test_empty(self) -> None:
        assert UserState().to_bytes() == EMPTY_STATE_BYTES
        assert_equal_states(UserState.from_bytes(EMPTY_STATE_BYTES), UserState())

    def test_what_is_read_cannot_be_written_to(self) -> None:
        assert not UserState.from_bytes(STATE_BYTES).event_item_keys.flags.writeable

    def test_arrays_of_different_lengths_are_refused(self) -> None:
        with pytest.raises(ValueError, match="one length"):
            UserState(event_item_keys=np.array([1], np.uint64)).to_bytes()

    @given(
        revision=st.integers(0, 2**64 - 1),
        events=st.lists(st.tuples(st.integers(0, 2**64 - 1), st.integers(0, 255), st.integers(-(2**63), 2**63 - 1))),
        seen=st.sets(st.integers(0, 2**64 - 1)),
        features=st.dictionaries(st.text(st.characters(codec="utf-8")), st.text(st.characters(codec="utf-8"))),
    )
    def test_round_trip(
        self, revision: int, events: list[tuple[int, int, int]], seen: set[int], features: dict[str, str]
    ) -> None:
        state = UserState(
            revision=revision,
            event_item_keys=np.array([event[0] for event in events], np.uint64),
            event_codes=np.array([event[1] for event in events], np.uint8),
            event_times=np.array([event[2] for event in events], np.int64),
            seen_item_keys=np.array(sorted(seen), np.uint64),
            features=features,
        )
        assert_equal_states(UserState.from_bytes(state.to_bytes()), state)

    @pytest.mark.parametrize(
        "value",
        [
            pytest.param(b"", id="empty"),
            pytest.param(b"\x01", id="header cut"),
            pytest.param(STATE_BYTES[:31], id="header one byte short"),
            pytest.param(b"\x04" + STATE_BYTES[1:], id="another format"),
            pytest.param(STATE_BYTES[:-1], id="last byte missing"),
            pytest.param(MERGED_STATE_BYTES[:56] + b"\x02" + MERGED_STATE_BYTES[57:], id="merged event not there"),
            pytest.param(MERGED_STATE_BYTES[:28] + b"\xff\xff" + MERGED_STATE_BYTES[30:], id="too many merged"),
            pytest.param(STATE_BYTES + b"\x00", id="one byte more"),
            pytest.param(STATE_BYTES[:16] + b"\xff\xff\xff\xff" + STATE_BYTES[20:], id="event count too large"),
            pytest.param(STATE_BYTES[:-1] + b"x", id="features are not JSON"),
            pytest.param(STATE_BYTES[:-3] + b'\xff"}', id="features are not UTF-8"),
            pytest.param(STATE_BYTES[:-30] + b"[" + b" " * 28 + b"]", id="features are a list"),
            pytest.param(STATE_BYTES[:-30] + b'{"age":' + b" " * 20 + b"49}", id="a feature is a number"),
        ],
    )
    def test_malformed(self, value: bytes) -> None:
        with pytest.raises(StoreValueError, match="user state"):
            UserState.from_bytes(value)

    @given(st.binary(max_size=200))
    def test_any_bytes_are_read_or_refused(self, value: bytes) -> None:
        with contextlib.suppress(StoreValueError):
            UserState.from_bytes(b"\x01" + value)


class TestFromEvents:
    def test_keeps_the_newest_events_and_everything_seen(self) -> None:
        total = MAX_RECENT_EVENTS + 5
        keys = np.arange(total, dtype=np.uint64)[::-1].copy()
        state = UserState.from_events(
            keys, np.full(total, 2, np.uint8), np.arange(total, dtype=np.int64), features={"age": "1"}
        )
        assert len(state.event_item_keys) == MAX_RECENT_EVENTS
        assert state.event_item_keys[-1] == 0
        assert state.event_times[-1] == total - 1
        np.testing.assert_array_equal(state.seen_item_keys, np.arange(total))
        assert state.revision == 1

    def test_repeated_items_are_seen_once(self) -> None:
        state = UserState.from_events(
            np.array([9, 4, 9], np.uint64), np.ones(3, np.uint8), np.zeros(3, np.int64), features={}
        )
        assert state.event_item_keys.tolist() == [9, 4, 9]
        assert state.seen_item_keys.tolist() == [4, 9]

    def test_no_events(self) -> None:
        state = UserState.from_events(
            np.empty(0, np.uint64), np.empty(0, np.uint8), np.empty(0, np.int64), features={}, revision=0
        )
        assert state.to_bytes() == EMPTY_STATE_BYTES


class TestUserVector:
    def test_golden_bytes(self) -> None:
        assert VECTOR.to_bytes() == VECTOR_BYTES

    def test_golden_bytes_are_read(self) -> None:
        read = UserVector.from_bytes(VECTOR_BYTES)
        assert read.state_revision == 3
        assert read.values.dtype == np.float32
        assert read.values.tolist() == [1.0, -0.5]

    @given(st.integers(0, 2**64 - 1), st_numpy.arrays(np.float32, st.integers(0, 300), elements=st.floats(width=32)))
    def test_round_trip(self, revision: int, values: np.ndarray) -> None:
        read = UserVector.from_bytes(UserVector(revision, values).to_bytes())
        assert read.state_revision == revision
        np.testing.assert_array_equal(read.values, values)

    @pytest.mark.parametrize(
        "value",
        [
            pytest.param(b"", id="empty"),
            pytest.param(VECTOR_BYTES[:15], id="header cut"),
            pytest.param(b"\x02" + VECTOR_BYTES[1:], id="another format"),
            pytest.param(VECTOR_BYTES[:-1], id="last byte missing"),
            pytest.param(VECTOR_BYTES + b"\x00", id="one byte more"),
            pytest.param(VECTOR_BYTES[:4] + b"\x03" + VECTOR_BYTES[5:], id="another dimension"),
        ],
    )
    def test_malformed(self, value: bytes) -> None:
        with pytest.raises(StoreValueError, match="user vector"):
            UserVector.from_bytes(value)


class TestWithEvents:
    """Effects of events on a state, in whichever program they are applied."""

    CLICK, IMPRESSION, PURCHASE, RATING = 2, 1, 4, 6

    def _state(self, *events: tuple[int, int, int]) -> UserState:
        return UserState().with_events(*self._arrays(*events))

    def _arrays(self, *events: tuple[int, int, int]) -> tuple[Any, Any, Any]:
        keys, codes, times = zip(*events, strict=True)
        return np.array(keys, np.uint64), np.array(codes, np.uint8), np.array(times, np.int64)

    def test_a_late_event_is_inserted_by_time(self) -> None:
        state = self._state((10, self.CLICK, 100), (30, self.CLICK, 300)).with_events(
            *self._arrays((20, self.PURCHASE, 200))
        )
        assert state.event_item_keys.tolist() == [10, 20, 30]
        assert state.event_codes.tolist() == [self.CLICK, self.PURCHASE, self.CLICK]
        assert state.event_times.tolist() == [100, 200, 300]
        assert state.revision == 2

    def test_an_impression_is_counted_and_neither_seen_nor_history(self) -> None:
        state = self._state((10, self.IMPRESSION, 100))
        assert state.event_counts.tolist() == [1, 0, 0, 0, 0, 0]
        assert len(state.event_item_keys) == len(state.seen_item_keys) == 0
        assert state.revision == 1

    def test_the_first_event_of_an_item_stays_and_later_events_only_count(self) -> None:
        state = self._state((10, self.CLICK, 100), (10, self.PURCHASE, 200))
        state = state.with_events(*self._arrays((10, self.CLICK, 50)))
        assert state.event_item_keys.tolist() == [10]
        assert state.event_times.tolist() == [100]
        assert state.event_counts.tolist() == [0, 2, 0, 1, 0, 0]

    STRENGTHS = np.array([0, 0.1, 1, 3, 5, 1, 1])

    def test_the_strongest_event_stands_for_the_others(self) -> None:
        state = self._state((10, self.CLICK, 100), (20, self.CLICK, 150))
        state = state.with_events(
            *self._arrays((10, self.PURCHASE, 200), (10, self.CLICK, 300), (10, self.PURCHASE, 400)),
            strengths=self.STRENGTHS,
        )
        assert state.event_item_keys.tolist() == [20, 10]
        assert (state.event_codes.tolist(), state.event_times.tolist()) == ([self.CLICK, self.PURCHASE], [150, 200])
        assert merged(state) == [(1, [0, 2, 0, 2, 0, 0], 400)]
        assert state.event_counts.tolist() == [0, 3, 0, 2, 0, 0]
        assert state.seen_item_keys.tolist() == [10, 20]
        assert_equal_states(UserState.from_bytes(state.to_bytes()), state)

    def test_merged_events_move_with_their_history(self) -> None:
        """Under a rule without strengths, and in the items that a request adds."""
        state = self._state((30, self.CLICK, 100)).with_events(
            *self._arrays((30, self.PURCHASE, 200)), strengths=self.STRENGTHS
        )
        state = state.with_events(*self._arrays((10, self.CLICK, 50), (40, self.CLICK, 300)))
        assert state.event_item_keys.tolist() == [10, 30, 40]
        assert merged(state) == [(1, [0, 1, 0, 1, 0, 0], 200)]
        newer = [(key, self.CLICK, 1_000 + key) for key in range(1_000, 1_000 + MAX_RECENT_EVENTS - 1)]
        full = state.with_events(*self._arrays(*newer))
        assert (full.event_item_keys[0], len(full.merged)) == (40, 0)

    def test_in_a_full_history_a_purchase_of_an_item_that_was_seen_before_enters_and_a_click_does_not(self) -> None:
        many = self._arrays(*((key, self.CLICK, key) for key in range(1, MAX_RECENT_EVENTS + 11)))
        state = UserState().with_events(*many, strengths=self.STRENGTHS)
        later = self._arrays((3, self.PURCHASE, 1_000), (4, self.CLICK, 1_001))
        state = state.with_events(*later, strengths=self.STRENGTHS)
        assert (state.event_item_keys[-1], state.event_codes[-1]) == (3, self.PURCHASE)
        assert 4 not in state.event_item_keys

    def test_a_low_rated_item_is_seen_counted_and_no_history(self) -> None:
        arrays = self._arrays((10, self.RATING, 100), (20, self.RATING, 110), (10, self.RATING, 120))
        state = UserState().with_events(*arrays, low_rated=np.array([True, False, True]))
        assert (state.event_item_keys.tolist(), state.seen_item_keys.tolist()) == ([20], [10, 20])
        assert state.event_counts.tolist() == [0, 0, 0, 0, 0, 3]
        low = self._state((20, self.CLICK, 1)).with_events(
            *self._arrays((20, self.RATING, 9)), low_rated=np.ones(1, bool)
        )
        assert (low.event_item_keys.tolist(), low.seen_item_keys.tolist(), low.revision) == ([20], [20], 2)

    def test_an_item_that_was_rated_low_enters_the_history_with_a_later_choice(self) -> None:
        low = self._arrays((10, self.RATING, 100))
        high = self._arrays((10, self.RATING, 200))
        state = UserState().with_events(*low, low_rated=np.array([True])).with_events(*high)
        assert (state.event_item_keys.tolist(), state.event_times.tolist()) == ([10], [200])
        at_once = self._arrays((10, self.RATING, 100), (10, self.RATING, 200))
        together = UserState().with_events(*at_once, low_rated=np.array([True, False]))
        assert_equal_states(together, dataclasses.replace(state, revision=1))

    def test_low_rated_items_of_a_whole_history_are_only_seen(self) -> None:
        arrays = self._arrays((10, self.CLICK, 100), (30, self.CLICK, 300))
        state = UserState.from_events(*arrays, features={}, low_rated_keys=np.array([40, 20, 10], np.uint64))
        assert (state.event_item_keys.tolist(), state.seen_item_keys.tolist()) == ([10, 30], [10, 20, 30, 40])

    def test_only_the_newest_events_are_kept_and_all_items_are_seen(self) -> None:
        many = [(key, self.CLICK, key) for key in range(1, MAX_RECENT_EVENTS + 11)]
        state = self._state(*many).with_events(*self._arrays((9_999, self.CLICK, 1)))
        assert state.event_item_keys.tolist() == list(range(11, MAX_RECENT_EVENTS + 11))
        assert state.seen_item_keys.tolist() == [*range(1, MAX_RECENT_EVENTS + 11), 9_999]

    def test_seen_items_are_bounded_and_those_of_the_history_stay(self) -> None:
        """Whoever may record events must not make a state of any size."""
        state, step = UserState(), 20_000
        for start in range(0, 3 * step, step):
            keys = np.arange(start + 1, start + step + 1, dtype=np.uint64)
            state = state.with_events(keys, np.full(step, 2, np.uint8), keys.astype(np.int64))
        assert len(state.seen_item_keys) == MAX_SEEN_ITEMS
        assert np.array_equal(np.unique(state.seen_item_keys), state.seen_item_keys)
        assert set(state.event_item_keys.tolist()) == set(range(3 * step - 199, 3 * step + 1))
        assert np.isin(state.event_item_keys, state.seen_item_keys).all()
        assert int(state.event_counts.sum()) == 3 * step
        assert len(state.to_bytes()) < 500_000

    def test_events_without_a_time_stay_in_their_order(self) -> None:
        state = self._state((3, self.CLICK, 0), (1, self.CLICK, 0)).with_events(*self._arrays((2, self.CLICK, 50)))
        assert state.event_item_keys.tolist() == [3, 1, 2]

    def test_format_1_is_read_without_counts(self) -> None:
        state = UserState.from_bytes(STATE_BYTES_OF_FORMAT_1)
        assert state.event_counts.tolist() == [0] * 6
        assert state.seen_item_keys.tolist() == STATE.seen_item_keys.tolist()

    @given(st.lists(st.tuples(st.integers(1, 8), st.integers(1, 6), st.integers(1, 50)), min_size=1, max_size=30))
    def test_one_event_at_a_time_gives_the_state_of_all_at_once(self, events: list[tuple[int, int, int]]) -> None:
        events = sorted(events, key=lambda event: event[2])
        together, alone = self._state(*events), UserState()
        for event in events:
            alone = alone.with_events(*self._arrays(event))
        assert_equal_states(together, dataclasses.replace(alone, revision=1))
