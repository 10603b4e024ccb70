"""Entries of streams, pinned byte for byte: a server and a feature_sync of two releases must read each other's."""

from __future__ import annotations

import contextlib
import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tandem.contract import names, streams
from tandem.contract.errors import StreamEntryError
from tandem.contract.streams import AppliedItemChange, Event, ItemChange

EVENT = Event(
    event_id="e1",
    user_id="ü",
    item_id="50",
    type="rating",
    occurred_at=1_000_000,
    received_at=2_000_000,
    value=4.5,
    request_id="",
    position=3,
)
EVENT_BYTES = bytes.fromhex(
    "01 05 0200 0200 0200 0000 0000"  # format, code, lengths of the ids, padding
    "03000000"  # position
    "40420f0000000000 80841e0000000000 0000000000001240"  # occurred, received, value
    "6531 c3bc 3530"
)
PAID = dataclasses.replace(EVENT, type="purchase", value=19.5, currency="EUR")
PAID_BYTES = bytes.fromhex(
    "01 04 0200 0200 0200 0000 0300"  # format, code, lengths of the ids and of the currency
    "03000000"  # position
    "40420f0000000000 80841e0000000000 0000000000803340"  # occurred, received, value
    "6531 c3bc 3530 455552"
)
CHANGE = ItemChange(
    item_id="50", changed_at=7, title="Ä", categories=("a", "b"), attributes={"price": "1.5"}, available=False
)
CHANGE_BYTES = (
    '{"attributes":{"price":"1.5"},"available":false,"categories":["a","b"],"changed_at":7,"deleted":false,'
    '"description":"","format":1,"item_id":"50","title":"Ä"}'
).encode()


def test_keys_and_topics() -> None:
    assert streams.stream_key(streams.EVENTS) == b"tandem/1/events"
    assert streams.applied_key(streams.EVENTS) == b"tandem/1/events/applied"
    assert streams.dead_letters_key(streams.ITEM_CHANGES) == b"tandem/1/item-changes/dead"
    assert streams.kafka_topic(streams.ITEM_CHANGES) == "tandem.item-changes"


def test_golden_bytes() -> None:
    assert EVENT.to_bytes() == EVENT_BYTES
    assert Event.from_bytes(EVENT_BYTES) == EVENT
    assert PAID.to_bytes() == PAID_BYTES
    assert Event.from_bytes(PAID_BYTES) == PAID
    assert CHANGE.to_bytes() == CHANGE_BYTES
    assert ItemChange.from_bytes(CHANGE_BYTES) == CHANGE


@given(
    st.builds(
        Event,
        event_id=st.text(max_size=64),
        user_id=st.text(max_size=64),
        item_id=st.text(max_size=64),
        type=st.sampled_from(names.EVENT_TYPES),
        occurred_at=st.integers(0, 2**62),
        received_at=st.integers(0, 2**62),
        value=st.floats(0, 1e9),
        request_id=st.text(max_size=64),
        position=st.integers(-1, 2**31 - 1),
        currency=st.text(max_size=8),
    )
)
def test_events_survive_a_round_trip(event: Event) -> None:
    assert Event.from_bytes(event.to_bytes()) == event


@given(st.integers(0, 2**53), st.integers(0, 2**31), st.text(max_size=20), st.booleans())
def test_applied_changes_survive_a_round_trip(sequence: int, slot: int, title: str, deleted: bool) -> None:
    change = ItemChange(item_id="i", changed_at=1, title=title, deleted=deleted)
    applied = AppliedItemChange(sequence=sequence, slot=slot, change=change)
    assert AppliedItemChange.from_bytes(applied.to_bytes()) == applied


@given(st.binary(max_size=80) | st.binary(max_size=60).map(lambda rest: b"\x01\x02" + rest))
def test_any_bytes_are_an_entry_or_an_error(entry: bytes) -> None:
    with contextlib.suppress(StreamEntryError):
        Event.from_bytes(entry)
    for kind in (ItemChange, AppliedItemChange):
        with contextlib.suppress(StreamEntryError):
            kind.from_bytes(entry)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (b"", "an empty entry"),
        (b"\x02" + EVENT_BYTES[1:], "format 2"),
        (b"\x01\x07" + EVENT_BYTES[2:], "7 is the code of no type"),
        (EVENT_BYTES + b"x", "its header says"),
        (EVENT_BYTES.replace(b"\xc3\xbc", b"\xff\xff"), "not UTF-8"),
    ],
)
def test_a_wrong_event_says_what_is_wrong(entry: bytes, message: str) -> None:
    with pytest.raises(StreamEntryError, match=message):
        Event.from_bytes(entry)


@pytest.mark.parametrize(
    "entry", [b"[]", b"{}", b'{"format":1}', b'{"format":1,"item_id":5,"changed_at":1,"categories":[]}']
)
def test_a_wrong_change_is_refused(entry: bytes) -> None:
    with pytest.raises(StreamEntryError, match="item change"):
        ItemChange.from_bytes(entry)
