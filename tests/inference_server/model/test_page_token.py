"""Page tokens: every process that has the bundle opens the tokens that were issued, and no other text."""

from __future__ import annotations

import base64
import dataclasses
import math
import string

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from inference_server.core.errors import InvalidRequest
from inference_server.core.query import NO_FILTER, AttributePredicate, ItemFilter, Query
from inference_server.model.page_token import MAX_SHOWN, PageTokens, request_fingerprint, tokens_of_bundle

NUM_ITEMS = 1000
TOKENS = tokens_of_bundle(b'{"model_version": "one"}')
OTHER_BUNDLE = tokens_of_bundle(b'{"model_version": "two"}')
FINGERPRINT = request_fingerprint(Query(user_id="u", num_items=10))
NOT_ISSUED = "^page_token: was not issued by this server for this user, filter and scenario$"
EXPIRED = "^page_token: belongs to a bundle that is no longer served; start again at the first page$"

rows = st.lists(st.integers(0, NUM_ITEMS - 1), max_size=50, unique=True).map(lambda row: np.array(row, dtype=np.int64))
fingerprints = st.binary(min_size=16, max_size=16)


def refused(token: str, fingerprint: bytes = FINGERPRINT, tokens: PageTokens = TOKENS) -> str:
    with pytest.raises(InvalidRequest) as caught:
        tokens.open(token, fingerprint)
    assert caught.value.field == "page_token"
    return str(caught.value)


class TestTokens:
    @given(shown=rows, fingerprint=fingerprints)
    def test_round_trip(self, shown: np.ndarray, fingerprint: bytes) -> None:
        opened = TOKENS.open(TOKENS.issue(shown, fingerprint), fingerprint)
        assert opened.dtype == np.int64
        assert opened.tolist() == shown.tolist()

    @given(shown=rows)
    def test_other_processes_open_it(self, shown: np.ndarray) -> None:
        replica = tokens_of_bundle(b'{"model_version": "one"}')
        assert replica.open(TOKENS.issue(shown, FINGERPRINT), FINGERPRINT).tolist() == shown.tolist()

    @given(shown=rows)
    def test_it_goes_into_a_url_as_it_is(self, shown: np.ndarray) -> None:
        assert set(TOKENS.issue(shown, FINGERPRINT)) <= set(string.ascii_letters + string.digits + "-_")

    def test_golden_token(self) -> None:
        """Replicas of two releases serve at the same time: the format may change only with its first byte."""
        token = TOKENS.issue(np.array([3, 1, 999]), FINGERPRINT)
        assert token == "AcU1HGrUrWIIAwAAAAEAAADnAwAAUN9UvcWjlCOsuoYMFdB1Lw"

    def test_the_most_rows_and_one_more(self) -> None:
        tokens = tokens_of_bundle(b"large")
        most = np.arange(MAX_SHOWN)
        assert tokens.open(tokens.issue(most, FINGERPRINT), FINGERPRINT).tolist() == most.tolist()
        assert tokens.issue(np.arange(MAX_SHOWN + 1), FINGERPRINT) == ""

    @given(shown=rows, data=st.data())
    def test_any_flipped_bit_is_refused(self, shown: np.ndarray, data: st.DataObject) -> None:
        token = TOKENS.issue(shown, FINGERPRINT)
        content = bytearray(base64.urlsafe_b64decode(token + "=" * (-len(token) % 4)))
        bit = data.draw(st.integers(0, len(content) * 8 - 1))
        content[bit // 8] ^= 1 << bit % 8
        refused(base64.urlsafe_b64encode(content).rstrip(b"=").decode())

    @given(shown=rows, data=st.data())
    def test_any_changed_character_is_refused(self, shown: np.ndarray, data: st.DataObject) -> None:
        token = TOKENS.issue(shown, FINGERPRINT)
        index = data.draw(st.integers(0, len(token) - 1))
        changed = data.draw(st.sampled_from(string.printable + "é\ud800"))
        assume(changed != token[index])
        refused(token[:index] + changed + token[index + 1 :])

    @given(shown=rows, data=st.data())
    def test_any_added_or_missing_character_is_refused(self, shown: np.ndarray, data: st.DataObject) -> None:
        token = TOKENS.issue(shown, FINGERPRINT)
        index = data.draw(st.integers(0, len(token)))
        added = data.draw(st.sampled_from(string.printable))
        refused(token[:index] + added + token[index:])
        refused(token[:index] + token[index + 1 :] if index < len(token) else token + "=")

    @given(token=st.text(max_size=60))
    def test_any_other_text_is_refused(self, token: str) -> None:
        refused(token)

    @given(shown=rows, fingerprint=fingerprints)
    def test_another_request_is_refused(self, shown: np.ndarray, fingerprint: bytes) -> None:
        assume(fingerprint != FINGERPRINT)
        with pytest.raises(InvalidRequest, match=NOT_ISSUED):
            TOKENS.open(TOKENS.issue(shown, fingerprint), FINGERPRINT)

    @given(shown=rows)
    def test_another_bundle_is_told(self, shown: np.ndarray) -> None:
        with pytest.raises(InvalidRequest, match=EXPIRED):
            OTHER_BUNDLE.open(TOKENS.issue(shown, FINGERPRINT), FINGERPRINT)

    def test_the_identity_alone_opens_nothing(self) -> None:
        identity = b"12345678"
        ours = PageTokens(bundle_identity=identity, key=b"k" * 32)
        theirs = PageTokens(bundle_identity=identity, key=b"l" * 32)
        with pytest.raises(InvalidRequest, match=NOT_ISSUED):
            ours.open(theirs.issue(np.array([1]), FINGERPRINT), FINGERPRINT)

    def test_rows_of_live_items_lie_beyond_the_bundles(self) -> None:
        shown = np.array([NUM_ITEMS + 70_000])
        assert TOKENS.open(TOKENS.issue(shown, FINGERPRINT), FINGERPRINT).tolist() == shown.tolist()

    def test_half_a_row_is_refused_even_with_its_mac(self) -> None:
        part = b"abc"
        mac = TOKENS._mac_over(part, FINGERPRINT)
        assert "was not issued" in refused(base64.urlsafe_b64encode(TOKENS._head + part + mac).rstrip(b"=").decode())

    def test_a_format_of_another_release_is_refused(self) -> None:
        assert "was not issued" in refused(base64.urlsafe_b64encode(b"\x02" + bytes(26)).decode())

    def test_a_token_that_is_too_long_is_refused_unread(self) -> None:
        longest = TOKENS.issue(np.zeros(MAX_SHOWN, dtype=np.int64), FINGERPRINT)
        assert refused(longest + "A") == "page_token: has 21368 characters, must have at most 21367"

    def test_an_identity_of_another_length_is_our_mistake(self) -> None:
        with pytest.raises(ValueError, match="bundle_identity has 3 bytes, not 8"):
            PageTokens(bundle_identity=b"abc", key=b"k")


texts = st.text(max_size=3)
lists = st.lists(texts, max_size=3).map(tuple)
limits = st.none() | st.floats(-2, 2, allow_subnormal=False)
predicates = st.builds(AttributePredicate, name=texts, any_of=lists, none_of=lists, min=limits, max=limits)
filters = st.just(NO_FILTER) | st.builds(
    ItemFilter,
    include_categories=lists,
    exclude_categories=lists,
    exclude_item_ids=lists,
    attributes=st.lists(predicates, max_size=2).map(tuple),
)
queries = st.builds(
    Query,
    user_id=texts,
    num_items=st.just(10),
    filter=filters,
    exclude_seen=st.booleans(),
    diversity=st.none() | st.sampled_from([0.0, -0.0, 0.5, 1.0]),
    scenario=texts,
)


BOUND_TO_A_PAGE = {"user_id", "filter", "exclude_seen", "diversity", "scenario"}
FREE_FROM_PAGE_TO_PAGE = {"model", "num_items", "recent_item_ids", "context", "explain", "page_token"}


class TestRequestFingerprint:
    def test_every_field_of_a_request_is_bound_to_a_page_or_free(self) -> None:
        # A new field that changes the list and is not bound would repeat or lose items from page to page.
        assert {field.name for field in dataclasses.fields(Query)} == BOUND_TO_A_PAGE | FREE_FROM_PAGE_TO_PAGE
        assert {field.name for field in dataclasses.fields(ItemFilter)} == {
            "include_categories",
            "exclude_categories",
            "exclude_item_ids",
            "exclude_digest",
            "attributes",
        }, "a new condition belongs into `_filter_bytes`"

    @given(first=queries, second=queries)
    def test_equal_exactly_where_the_requests_are(self, first: Query, second: Query) -> None:
        assert (request_fingerprint(first) == request_fingerprint(second)) == (first == second)

    @given(query=queries, data=st.data())
    def test_each_part_counts(self, query: Query, data: st.DataObject) -> None:
        changes = {
            "user_id": query.user_id + "x",
            "scenario": query.scenario + "x",
            "exclude_seen": not query.exclude_seen,
            "diversity": 0.25,
            "filter": dataclasses.replace(query.filter, exclude_item_ids=(*query.filter.exclude_item_ids, "")),
        }
        assert set(changes) == BOUND_TO_A_PAGE
        name = data.draw(st.sampled_from(sorted(changes)))
        changed = dataclasses.replace(query, **{name: changes[name]})
        assert request_fingerprint(changed) != request_fingerprint(query)

    @given(query=queries)
    def test_what_may_change_from_page_to_page_does_not_count(self, query: Query) -> None:
        changes = {
            "num_items": 50,
            "recent_item_ids": ("a",),
            "context": {"device": "tv"},
            "explain": True,
            "page_token": "t",
            "model": "challenger",
        }
        assert set(changes) == FREE_FROM_PAGE_TO_PAGE
        next_page = dataclasses.replace(query, **changes)
        assert request_fingerprint(next_page) == request_fingerprint(query)

    def test_texts_do_not_run_into_each_other(self) -> None:
        pairs = [
            (Query(user_id="ab", num_items=1, scenario="c"), Query(user_id="a", num_items=1, scenario="bc")),
            (
                Query(user_id="", num_items=1, filter=ItemFilter(include_categories=("a", "b"))),
                Query(user_id="", num_items=1, filter=ItemFilter(include_categories=("a",), exclude_categories=("b",))),
            ),
            (
                Query(user_id="", num_items=1, filter=ItemFilter(exclude_item_ids=("a,b",))),
                Query(user_id="", num_items=1, filter=ItemFilter(exclude_item_ids=("a", "b"))),
            ),
        ]
        for first, second in pairs:
            assert request_fingerprint(first) != request_fingerprint(second)

    def test_an_empty_filter_is_no_filter(self) -> None:
        assert request_fingerprint(Query(user_id="u", num_items=10, filter=ItemFilter())) == FINGERPRINT

    def test_any_text_and_number_has_one(self) -> None:
        odd = ItemFilter(attributes=(AttributePredicate(name="\ud800", min=math.inf, max=math.nan),))
        assert len(request_fingerprint(Query(user_id="\udfff", num_items=1, filter=odd))) == 16
