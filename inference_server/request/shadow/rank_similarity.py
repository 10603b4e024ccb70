"""How alike two ranked lists are. No item is in a list twice."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

PERSISTENCE: Final = 0.9
"""p of rank-biased overlap: the first ten positions have 86% of the weight (Webber et al. 2010, equation 21)."""


def overlap(own: Sequence[str], other: Sequence[str]) -> float:
    """Share of the items of the longer list that both lists have, 0 to 1; 1 for two empty lists."""
    longest = max(len(own), len(other))
    return len(set(own) & set(other)) / longest if longest else 1.0


def rank_biased_overlap(own: Sequence[str], other: Sequence[str]) -> float:
    """Extrapolated rank-biased overlap, 0 to 1, of two lists that may differ in length; 1 for two empty lists.

    W. Webber, A. Moffat and J. Zobel, A similarity measure for indefinite rankings, ACM Transactions on Information
    Systems 28(4), 2010, equation 32.
    """
    shorter, longer = sorted((own, other), key=len)
    num_short, num_long, p = len(shorter), len(longer), PERSISTENCE
    if not num_short:
        return float(num_long == 0)
    seen: set[str] = set()
    common = common_short = 0
    total = 0.0
    for depth in range(1, num_long + 1):
        for item in (*shorter[depth - 1 : depth], longer[depth - 1]):
            common += item in seen
            seen.add(item)
        if depth == num_short:
            common_short = common
        # Beyond its end the shorter list is taken to agree as much as it did down to its end.
        beyond = common_short * (depth - num_short) / num_short if depth > num_short else 0.0
        total += (common + beyond) / depth * p**depth
    agreement = (common - common_short) / num_long + common_short / num_short
    return (1 - p) / p * total + agreement * p**num_long
