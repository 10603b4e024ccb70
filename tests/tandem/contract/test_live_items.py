"""Keys and values of the live catalogue's feeds, pinned byte for byte."""

from __future__ import annotations

import contextlib

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tandem.contract.errors import StoreValueError
from tandem.contract.live_items import (
    ItemPlace,
    LiveItemVector,
    item_places_key,
    item_vectors_feed,
    item_vectors_position_key,
    items_feed,
)

VECTOR = LiveItemVector(3, np.array([1.0, -0.5], np.float32))
VECTOR_BYTES = bytes.fromhex("01 000000 02000000 0300000000000000 0000803f 000000bf")


def test_keys() -> None:
    assert items_feed().values == b"tandem/1/items"
    assert items_feed().changes == b"tandem/1/items/changes"
    assert item_vectors_feed("m1").sequence == b"tandem/1/item-vectors/m1/sequence"
    assert item_places_key() == b"tandem/1/items/places"
    assert item_vectors_position_key("m1") == b"tandem/1/item-vectors/m1/position"


def test_golden_bytes() -> None:
    assert VECTOR.to_bytes() == VECTOR_BYTES
    read = LiveItemVector.from_bytes(VECTOR_BYTES)
    assert read.change_sequence == 3
    np.testing.assert_array_equal(read.values, VECTOR.values)
    place = ItemPlace(slot=7, changed_at=1_700_000_000_000_000)
    assert place.to_bytes() == bytes.fromhex("01 000000 07000000 00401e18240a0600")
    assert ItemPlace.from_bytes(place.to_bytes()) == place


@given(st.binary(max_size=40))
def test_any_bytes_are_a_value_or_an_error(value: bytes) -> None:
    for kind in (LiveItemVector, ItemPlace):
        with contextlib.suppress(StoreValueError):
            kind.from_bytes(value)
