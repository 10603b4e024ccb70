"""Impressions, pinned byte for byte, and as rows of a table."""

from __future__ import annotations

import contextlib
import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tandem.contract import impression_table
from tandem.contract.errors import StreamEntryError
from tandem.contract.impressions import Impression, ShownArm
from tests.support.impressions import from_table

IMPRESSION = Impression(
    request_id="r1",
    timestamp=1_000_000,
    user_id="ü",
    scenario="home",
    placement="top",
    context={"placement": "top", "device": "phone"},
    model_version="m1",
    variant="champion",
    policy_fingerprint="f1",
    answer_source="ranked",
    degraded_reasons=("ranker_skipped",),
    assignments=(ShownArm("exp", "b", True), ShownArm("layer", "control", False)),
    first_position=10,
    item_ids=("50", "51"),
    sources=("two_tower", "popular"),
    scores=(1.5, -0.25),
    propensities=(1.0, 0.125),
    num_candidates=40,
    ranks=(0, 7),
    latency_us=1500,
)
IMPRESSION_BYTES = (
    bytes.fromhex(
        "02 000000 02000000 0a000000 28000000 40420f0000000000"  # format, items, first position, candidates, timestamp
        "dc050000"  # latency
        "0000c03f 000080be 0000803f 0000003e 00000000 07000000"  # scores, propensities, ranks
    )
    + (
        '["r1","ü","home","top",{"placement":"top","device":"phone"},"m1","champion","f1","ranked",["ranker_skipped"],'
        '[["exp","b",true],["layer","control",false]],["50","51"],["two_tower","popular"]]'
    ).encode()
)

BYTES_OF_FORMAT_1 = b"\x01" + IMPRESSION_BYTES[1:24] + IMPRESSION_BYTES[28:]

_texts = st.text(max_size=12)
_floats = st.floats(width=32, allow_nan=False)


def test_golden_bytes() -> None:
    assert IMPRESSION.to_bytes() == IMPRESSION_BYTES
    assert Impression.from_bytes(IMPRESSION_BYTES) == IMPRESSION


def test_an_entry_of_format_1_has_no_latency() -> None:
    old = Impression.from_bytes(BYTES_OF_FORMAT_1)
    assert old == dataclasses.replace(IMPRESSION, latency_us=None)
    assert "latency_us" not in old.to_dict()
    assert impression_table.to_table([old, IMPRESSION]).column("latency_us").to_pylist() == [None, 1500]
    assert Impression.from_bytes(old.to_bytes()) == old


@pytest.mark.parametrize(("given", "packed"), [(0, 1), (-3, 1), (2**40, 2**32 - 1)])
def test_a_latency_stays_in_its_range(given: int, packed: int) -> None:
    entry = dataclasses.replace(IMPRESSION, latency_us=given).to_bytes()
    assert Impression.from_bytes(entry).latency_us == packed


def test_a_table_has_a_row_for_each_impression_and_gives_them_back() -> None:
    bare = dataclasses.replace(IMPRESSION, context={}, degraded_reasons=(), assignments=(), item_ids=(), sources=())
    bare = dataclasses.replace(bare, scores=(), propensities=(), num_candidates=0, ranks=())
    table = impression_table.to_table([IMPRESSION, bare])
    assert table.schema.equals(impression_table.SCHEMA)
    for given_one, read in zip((IMPRESSION, bare), from_table(table), strict=True):
        assert read.to_dict() == given_one.to_dict()
    assert list(from_table(impression_table.to_table([]))) == []


@given(
    st.builds(
        lambda rows, **fields: dataclasses.replace(
            IMPRESSION,
            item_ids=[row[0] for row in rows],
            sources=[row[1] for row in rows],
            scores=[row[2] for row in rows],
            propensities=[row[3] for row in rows],
            num_candidates=40 if rows and rows[0][4] else 0,
            ranks=[row[4] for row in rows] if rows and rows[0][4] else [],
            **fields,
        ),
        st.lists(st.tuples(_texts, _texts, _floats, _floats, st.integers(0, 2**31 - 1)), max_size=5),
        context=st.dictionaries(_texts, _texts, max_size=3),
        assignments=st.lists(st.builds(ShownArm, _texts, _texts, st.booleans()), max_size=3),
        degraded_reasons=st.lists(_texts, max_size=3),
        user_id=_texts,
        timestamp=st.integers(0, 2**62),
        latency_us=st.none() | st.integers(1, 2**32 - 1),
    )
)
def test_impressions_survive_a_round_trip(impression: Impression) -> None:
    assert Impression.from_bytes(impression.to_bytes()).to_dict() == impression.to_dict()


@given(st.binary(max_size=80) | st.binary(max_size=60).map(lambda rest: IMPRESSION_BYTES[:40] + rest))
def test_any_bytes_are_an_impression_or_an_error(entry: bytes) -> None:
    with contextlib.suppress(StreamEntryError):
        Impression.from_bytes(entry)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (b"", "an empty entry"),
        (b"\x03" + IMPRESSION_BYTES[1:], "format 3 is not format 1 or 2"),
        (IMPRESSION_BYTES[:25], "format 2 is not"),
        (IMPRESSION_BYTES[:30], "2 items take 52"),
        (BYTES_OF_FORMAT_1[:30], "2 items take 48"),
        (IMPRESSION_BYTES[:-1], "no JSON"),
        (IMPRESSION_BYTES.replace(b'"51"', b"51"), "51 is no text"),
        (IMPRESSION_BYTES.replace(b"true", b"1"), "1 is no flag"),
        (IMPRESSION_BYTES.replace(b',"51"', b""), "another number"),
    ],
)
def test_a_wrong_impression_says_what_is_wrong(entry: bytes, message: str) -> None:
    with pytest.raises(StreamEntryError, match=message):
        Impression.from_bytes(entry)


def test_sequences_of_different_lengths_are_not_packed() -> None:
    with pytest.raises(ValueError, match="2 items have 2 sources, 1 scores and 2 propensities"):
        dataclasses.replace(IMPRESSION, scores=(1.0,)).to_bytes()
    with pytest.raises(ValueError, match="2 items from 40 candidates have 1 ranks"):
        dataclasses.replace(IMPRESSION, ranks=(1,)).to_bytes()
