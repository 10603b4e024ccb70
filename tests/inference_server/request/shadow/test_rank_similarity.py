"""How alike two lists are: worked values, and the definition as an infinite sum."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference_server.request.shadow.rank_similarity import PERSISTENCE, overlap, rank_biased_overlap

LISTS = st.permutations("abcdefghij").flatmap(lambda items: st.integers(0, 10).map(lambda size: items[:size]))


def summed(own: Sequence[str], other: Sequence[str]) -> float:
    """Webber et al. 2010, definition and section 4.4: (1 - p) sum p ** (d - 1) A(d), with the agreement that is assumed
    beyond the end of the shorter, and then of the longer list."""
    shorter, longer = sorted((own, other), key=len)
    if not shorter:
        return float(not longer)
    common_short = len(set(shorter) & set(longer[: len(shorter)]))
    total = 0.0
    for depth in range(1, 2000):
        at_most = min(depth, len(longer))
        common: float = len(set(shorter[:at_most]) & set(longer[:at_most]))
        if at_most > len(shorter):
            common += common_short * (at_most - len(shorter)) / len(shorter)
        total += PERSISTENCE ** (depth - 1) * common / at_most
    return (1 - PERSISTENCE) * total


@given(LISTS, LISTS)
def test_rank_biased_overlap_is_the_sum_of_its_definition(own: Sequence[str], other: Sequence[str]) -> None:
    found = rank_biased_overlap(own, other)
    assert found == pytest.approx(summed(own, other), abs=1e-9)
    assert found == pytest.approx(rank_biased_overlap(other, own), abs=1e-12)
    assert -1e-12 <= found <= 1 + 1e-12


@pytest.mark.parametrize(
    ("own", "other", "expected"),
    [
        ("abc", "abc", 1.0),
        ("abc", "xyz", 0.0),
        ("", "", 1.0),
        ("abc", "", 0.0),
        # (1 - p)(1 + p/2 + p^2) + p^3 with p = 0.9
        ("abc", "acb", 0.1 * (1 + 0.45 + 0.81) + 0.729),
        # Unequal lengths: agreement 1 down to the end of the shorter list, and as much assumed beyond.
        ("ab", "abcd", 1.0),
    ],
)
def test_rank_biased_overlap_by_hand(own: str, other: str, expected: float) -> None:
    assert rank_biased_overlap(own, other) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(
    ("own", "other", "expected"),
    [("abcd", "dcba", 1.0), ("abcd", "abxy", 0.5), ("abcd", "ab", 0.5), ("", "", 1.0), ("", "a", 0.0)],
)
def test_overlap_is_the_share_of_the_longer_list(own: str, other: str, expected: float) -> None:
    assert overlap(own, other) == overlap(other, own) == expected
