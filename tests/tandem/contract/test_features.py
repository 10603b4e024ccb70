"""From raw state to model inputs, the same in training and in serving."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, replace

import numpy as np
import pytest

from tandem.contract import names
from tandem.contract.features import (
    HISTORY_FEATURES,
    FeatureSchema,
    UserFeature,
    encode_category_codes,
    encode_histories,
    encode_index,
    encode_user_feature_codes,
    encode_users,
    older_rows,
    with_recent_items,
)
from tandem.contract.store import MAX_RECENT_EVENTS, UserState
from tandem.contract.vocabulary import MISSING_ROW, Vocabulary, id_keys

AGE = UserFeature("age", boundaries=(18.0, 25.0))
GENDER = UserFeature("gender", values=("F", "M"))
SCHEMA = FeatureSchema(history_length=3, user_features=(AGE, GENDER))
VOCABULARY = Vocabulary.from_ids(["a", "b", "c", "d"])
VECTORS = np.arange(8, dtype=np.float32).reshape(4, 2)
SECOND = 1_000_000


def state(item_ids: list[str], times: list[int] | None = None, **features: str) -> UserState:
    return UserState.from_events(
        id_keys(item_ids),
        np.arange(1, len(item_ids) + 1, dtype=np.uint8),
        np.array(times or [0] * len(item_ids), dtype=np.int64),
        features=features,
    )


class TestUserFeature:
    @pytest.mark.parametrize(
        ("raw", "code"),
        [
            ("17", 1),
            ("17.99", 1),
            ("18", 2),
            ("24", 2),
            ("25", 3),
            ("1e9", 3),
            ("-5", 1),
            ("inf", 0),
            (None, 0),
            ("", 0),
            ("old", 0),
            ("nan", 0),
        ],
    )
    def test_buckets(self, raw: str | None, code: int) -> None:
        assert AGE.code(raw) == code

    @pytest.mark.parametrize(("raw", "code"), [("F", 1), ("M", 2), ("f", 0), ("", 0), (None, 0)])
    def test_categories(self, raw: str | None, code: int) -> None:
        assert GENDER.code(raw) == code

    def test_number_of_codes(self) -> None:
        assert AGE.num_codes == 4  # unknown, below 18, 18 to 25, from 25
        assert GENDER.num_codes == 3  # unknown, F, M


class TestSchema:
    def test_fingerprint_is_pinned(self) -> None:
        assert SCHEMA.fingerprint == "ef31ae1c0b42f9886027efd3eb102fd51e38ad4bcda36ab987573705f3007580"

    def test_round_trip_through_json(self) -> None:
        schema = FeatureSchema(
            history_length=5,
            user_features=(AGE, GENDER),
            item_categories=("Drama", "War"),
            max_item_categories=2,
            text_encoder="minilm",
            text_dim=384,
            text_max_tokens=64,
            user_ids=True,
        )
        read = FeatureSchema.from_dict(json.loads(json.dumps(asdict(schema))))
        assert read == schema
        assert read.fingerprint == schema.fingerprint

    def test_a_schema_without_text_max_tokens_keeps_its_fingerprint(self) -> None:
        fields = asdict(replace(SCHEMA, text_encoder="minilm", text_dim=384))
        del fields["text_max_tokens"]
        read = FeatureSchema.from_dict(fields)
        assert read.text_max_tokens == 256
        assert read.fingerprint == hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()
        assert replace(read, text_max_tokens=64).fingerprint != read.fingerprint

    @pytest.mark.parametrize(
        "change", [{"unknown": 1}, {"user_features": 3}, {"item_categories": 3}, {"user_features": [{"name": "x"}]}]
    )
    def test_wrong_fields_are_refused(self, change: dict[str, object]) -> None:
        with pytest.raises((TypeError, ValueError, KeyError)):
            FeatureSchema.from_dict({**asdict(SCHEMA), **change})

    def test_a_missing_field_is_refused(self) -> None:
        with pytest.raises(TypeError):
            FeatureSchema.from_dict({"user_features": []})


class TestCodes:
    def test_user_features(self) -> None:
        codes = encode_user_feature_codes(
            [UserState(features={"age": "20", "gender": "M"}), state([], gender="?")], SCHEMA
        )
        assert codes.tolist() == [[2, 2], [0, 0]]
        assert codes.dtype == np.int64

    def test_no_users_and_no_features_keep_their_shape(self) -> None:
        assert encode_user_feature_codes([], SCHEMA).shape == (0, 2)
        assert encode_user_feature_codes([UserState()], FeatureSchema(history_length=3)).shape == (1, 0)

    def test_codes_of_an_array_are_those_of_its_numbers(self) -> None:
        numbers = np.array([[17.99, 18.0], [1e9, np.nan]])
        assert AGE.codes(numbers).tolist() == [[AGE.code(str(number)) for number in row] for row in numbers.tolist()]

    def test_history_features_are_derived_from_the_state(self) -> None:
        day = 86_400 * SECOND
        states = [
            state(["a", "b", "c"], [day, 2 * day, 12 * day]),
            state(["a"], [day]),
            state(["a", "b"]),
            UserState(),
            with_recent_items(state(["a"], [day]), [f"item {number}" for number in range(300)], 2),
        ]
        schema = FeatureSchema(history_length=3, user_features=(AGE, *HISTORY_FEATURES))
        num_events, days = HISTORY_FEATURES
        assert encode_user_feature_codes(states, schema).tolist() == [
            [0, num_events.code("3"), days.code("10")],
            [0, num_events.code("1"), 0],
            [0, num_events.code("2"), 0],
            [0, num_events.code("0"), 0],
            [0, num_events.code("200"), days.code("0")],
        ]

    def test_categories_drop_unknown_ones_and_pad(self) -> None:
        schema = FeatureSchema(history_length=1, item_categories=("Drama", "War"), max_item_categories=2)
        codes = encode_category_codes([["War", "?", "Drama", "War"], [], ["?"]], schema)
        assert codes.tolist() == [[2, 1], [0, 0], [0, 0]]

    def test_index_of_a_missing_row_is_the_out_of_vocabulary_row(self) -> None:
        assert encode_index(np.array([MISSING_ROW, 0, 7])).tolist() == [0, 1, 8]


class TestHistories:
    def test_are_padded_on_the_left_with_the_newest_event_last(self) -> None:
        history = encode_histories([state(["b", "c"], [SECOND, 3 * SECOND])], VOCABULARY, 3)
        assert history.rows.tolist() == [[MISSING_ROW, 1, 2]]
        assert history.event_codes.tolist() == [[0, 1, 2]]
        assert history.ages.tolist() == [[0.0, 2.0, 0.0]]

    def test_keep_the_newest_events(self) -> None:
        history = encode_histories([state(["a", "b", "c", "d"])], VOCABULARY, 3)
        assert history.rows.tolist() == [[1, 2, 3]]
        assert history.event_codes.tolist() == [[2, 3, 4]]

    def test_drop_unknown_items_before_cutting(self) -> None:
        history = encode_histories([state(["a", "b", "gone", "c", "gone too"])], VOCABULARY, 3)
        assert history.rows.tolist() == [[0, 1, 2]]
        assert history.event_codes.tolist() == [[1, 2, 4]]

    def test_ages_are_relative_to_the_newest_event_that_is_read(self) -> None:
        times = [10 * SECOND, 40 * SECOND, 100 * SECOND]
        assert encode_histories([state(["a", "b", "gone"], times)], VOCABULARY, 3).ages.tolist() == [[0.0, 30.0, 0.0]]

    def test_unknown_times_have_age_0(self) -> None:
        assert encode_histories([state(["a", "b"], [0, 5 * SECOND])], VOCABULARY, 2).ages.tolist() == [[0.0, 0.0]]

    def test_a_user_without_known_events_is_all_padding(self) -> None:
        history = encode_histories([state([]), state(["gone"])], VOCABULARY, 2)
        assert history.rows.tolist() == [[MISSING_ROW] * 2] * 2
        assert history.event_codes.tolist() == [[0, 0]] * 2

    def test_types(self) -> None:
        history = encode_histories([state(["a"])], VOCABULARY, 2)
        assert (history.rows.dtype, history.event_codes.dtype, history.ages.dtype) == (np.int64, np.int64, np.float32)


class TestEncodeUsers:
    def test_reads_vectors_of_the_history(self) -> None:
        tensors = encode_users(
            [state(["d", "a"], age="20", gender="F"), state([])],
            schema=SCHEMA,
            item_vocabulary=VOCABULARY,
            item_vectors=VECTORS,
        )
        assert tensors[names.HISTORY_VECTORS].tolist() == [[[0, 0], [6, 7], [0, 1]], [[0, 0]] * 3]
        assert tensors[names.HISTORY_EVENT_CODES].tolist() == [[0, 1, 2], [0, 0, 0]]
        assert tensors[names.HISTORY_AGES].shape == (2, 3)
        assert tensors[names.USER_FEATURE_CODES].tolist() == [[2, 1], [0, 0]]
        assert names.USER_INDEX not in tensors

    def test_user_ids(self) -> None:
        schema = FeatureSchema(history_length=1, user_ids=True)
        arguments = {"schema": schema, "item_vocabulary": VOCABULARY, "item_vectors": VECTORS}
        known = encode_users([state([])], user_index=np.array([4]), **arguments)
        assert known[names.USER_INDEX].tolist() == [4]
        assert names.USER_FEATURE_CODES not in known
        assert encode_users([state([])], **arguments)[names.USER_INDEX].tolist() == [0]

    def test_a_users_inputs_do_not_depend_on_the_batch(self) -> None:
        arguments = {"schema": SCHEMA, "item_vocabulary": VOCABULARY, "item_vectors": VECTORS}
        users = [state(["a"], age="1"), state(["b", "c", "d", "a"], [1, 2, 3, 4]), state([])]
        together = encode_users(users, **arguments)
        for index, user in enumerate(users):
            for name, tensor in encode_users([user], **arguments).items():
                np.testing.assert_array_equal(tensor[0], together[name][index])

    def test_a_stored_state_gives_the_same_inputs(self) -> None:
        arguments = {"schema": SCHEMA, "item_vocabulary": VOCABULARY, "item_vectors": VECTORS}
        raw = state(["a", "b"], [SECOND, 2 * SECOND], age="30")
        stored = UserState.from_bytes(raw.to_bytes())
        for name, tensor in encode_users([raw], **arguments).items():
            np.testing.assert_array_equal(tensor, encode_users([stored], **arguments)[name])


class TestWithRecentItems:
    def test_appends_at_the_time_of_the_newest_event(self) -> None:
        before = state(["b", "a"], [1, 2], age="30")
        after = with_recent_items(before, ["c", "d"], event_code=2)
        assert after.event_item_keys.tolist() == id_keys(["b", "a", "c", "d"]).tolist()
        assert after.event_codes.tolist() == [1, 2, 2, 2]
        assert after.event_times.tolist() == [1, 2, 2, 2]
        assert after.seen_item_keys.tolist() == sorted(id_keys(["a", "b", "c", "d"]).tolist())
        assert after.features == {"age": "30"}
        assert after.revision == before.revision

    def test_a_user_without_history(self) -> None:
        after = with_recent_items(UserState(), ["c", "d", "c"], event_code=2)
        assert after.event_item_keys.tolist() == id_keys(["c", "d"]).tolist()
        assert after.event_times.tolist() == [0, 0]
        assert UserState.from_bytes(after.to_bytes()).event_codes.tolist() == [2, 2]

    def test_an_item_chosen_before_keeps_its_position(self) -> None:
        after = with_recent_items(state(["b", "a"], [1, 2]), ["b"], event_code=2)
        assert after.event_item_keys.tolist() == id_keys(["b", "a"]).tolist()

    def test_nothing_recent_changes_nothing(self) -> None:
        before = state(["b", "a"])
        assert with_recent_items(before, [], event_code=2).to_bytes() == before.to_bytes()


def test_items_before_a_full_history_are_older_ones_and_others_were_only_seen() -> None:
    ids = [f"i{number}" for number in range(MAX_RECENT_EVENTS + 5)]
    vocabulary = Vocabulary.from_ids(ids[1:])
    times = np.zeros(len(ids), dtype=np.int64)
    codes = np.ones(len(ids), dtype=np.uint8)
    long = UserState.from_events(id_keys(ids), codes, times, features={})
    short = UserState.from_events(id_keys(ids[:3]), codes[:3], times[:3], features={}, low_rated_keys=id_keys(ids[7:9]))
    found = older_rows([long, short, UserState()], vocabulary)
    # The oldest five are not among the newest 200; the vocabulary does not hold the very first.
    assert sorted(found[0].tolist()) == [0, 1, 2, 3]
    assert [len(rows) for rows in found[1:]] == [0, 0]
    assert [rows.tolist() for rows in older_rows([short], vocabulary)] == [[]]
