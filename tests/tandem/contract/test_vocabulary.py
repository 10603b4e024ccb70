"""External id <-> key <-> row."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tandem.contract.errors import BundleIncompatible
from tandem.contract.vocabulary import MISSING_ROW, Vocabulary, id_key, id_keys


def test_keys_are_pinned() -> None:
    assert id_key("50") == 0xADD4B6067B50EB24
    assert id_key("é") == 0x2F19F3EF8BBF1ACB
    assert id_keys(["50", "172"]).tolist() == [0xADD4B6067B50EB24, 0xE29ACD21E597DB2]
    assert id_keys(["50"]).dtype == np.uint64


def test_content_hash_is_pinned() -> None:
    expected = "7df9b43c3496cb4d39a5fdf4bf05c705ce65f27b265ca5e685bf7d1b80f23c22"
    assert Vocabulary.from_ids(["a", "b"]).content_hash == expected


def test_content_hash_depends_on_the_order() -> None:
    assert Vocabulary.from_ids(["a", "b"]).content_hash != Vocabulary.from_ids(["b", "a"]).content_hash


def test_rows_are_positions_in_the_given_order() -> None:
    vocabulary = Vocabulary.from_ids(["z", "a", "m"])
    assert vocabulary.rows(["m", "z", "a", "z"]).tolist() == [2, 0, 1, 0]
    assert vocabulary.rows(["a"]).dtype == np.int64


def test_a_missing_id_has_the_missing_row() -> None:
    vocabulary = Vocabulary.from_ids(["z", "a", "m"])
    assert vocabulary.rows(["", "a", "nobody"]).tolist() == [MISSING_ROW, 1, MISSING_ROW]


def test_a_key_beyond_the_largest_is_missing() -> None:
    vocabulary = Vocabulary(np.array([5, 3], np.uint64))
    assert vocabulary.rows_of_keys(np.array([2**64 - 1, 0, 3], np.uint64)).tolist() == [MISSING_ROW, MISSING_ROW, 1]


def test_repeated_ids_are_refused() -> None:
    with pytest.raises(BundleIncompatible, match="same key"):
        Vocabulary.from_ids(["a", "b", "a"])


def test_empty() -> None:
    vocabulary = Vocabulary.from_ids([])
    assert len(vocabulary) == 0
    assert vocabulary.rows(["a", "b"]).tolist() == [MISSING_ROW, MISSING_ROW]
    assert vocabulary.rows([]).tolist() == []


@given(st.lists(st.text(st.characters(codec="utf-8")), unique=True), st.text(st.characters(codec="utf-8")))
def test_every_id_finds_its_own_row(ids: list[str], other: str) -> None:
    vocabulary = Vocabulary.from_ids(ids)
    assert vocabulary.rows(ids).tolist() == list(range(len(ids)))
    assert vocabulary.rows([other])[0] == (ids.index(other) if other in ids else MISSING_ROW)


def test_a_lookup_of_many_keys_gives_the_rows_of_single_lookups() -> None:
    generator = np.random.default_rng(0)
    keys = np.unique(generator.integers(0, 2**63, 60_000, dtype=np.uint64))
    generator.shuffle(keys)
    vocabulary = Vocabulary(keys)
    asked = np.concatenate([keys[:500], generator.integers(0, 2**63, 500, dtype=np.uint64)])
    generator.shuffle(asked)
    together = vocabulary.rows_of_keys(asked)
    single = [int(vocabulary.rows_of_keys(asked[index : index + 1])[0]) for index in range(len(asked))]
    assert together.tolist() == single
    assert set(range(500)) <= set(single)


@given(
    st.lists(st.integers(0, 2**64 - 1) | st.integers(2**63, 2**63 + 40), unique=True, min_size=1, max_size=60),
    st.lists(st.integers(0, 2**64 - 1) | st.integers(2**63 - 5, 2**63 + 45), max_size=60),
)
def test_keys_of_any_distribution_are_found(held: list[int], further: list[int]) -> None:
    rows = {key: row for row, key in enumerate(held)}
    vocabulary = Vocabulary(np.array(held, dtype=np.uint64))
    asked = [*held, *further, 0, 2**64 - 1]
    found = vocabulary.rows_of_keys(np.array(asked, dtype=np.uint64))
    assert found.tolist() == [rows.get(key, MISSING_ROW) for key in asked]
