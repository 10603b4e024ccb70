"""Caps: the maximum number of items of each category in one answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

NO_CODE: Final = -1
"""Pads the codes of items with fewer categories than other items have."""


def category_codes(categories: Sequence[Sequence[str]]) -> tuple[list[str], npt.NDArray[np.int64]]:
    """Category names of n items as codes: the name of each code, and (n, m) int64, padded with NO_CODE."""
    code_by_name: dict[str, int] = {}
    codes = [[code_by_name.setdefault(name, len(code_by_name)) for name in names] for names in categories]
    padded = np.full((len(codes), max(map(len, codes), default=0)), NO_CODE, dtype=np.int64)
    for index, item_codes in enumerate(codes):
        padded[index, : len(item_codes)] = item_codes
    return list(code_by_name), padded


def apply_caps(
    order: npt.NDArray[np.int64],
    categories: npt.NDArray[np.int64],
    *,
    caps: Mapping[int, int],
    default_cap: int,
) -> npt.NDArray[np.int64]:
    """The positions of `order` that no cap forbids: (kept,) int64, in the same order.

    `order` is (k,) int64, positions in `categories`, which is (n, m) int64: each candidate's category codes, without
    repeats, padded with NO_CODE. `caps` is the maximum number of items by code; codes not in it have `default_cap`,
    where 0 means no cap. An item counts for all its categories, and is skipped if one of them is full. Caps are hard:
    a skipped item is not shown even if the answer then has fewer items than the caller asked for.
    """
    if not caps and default_cap == 0:
        return order
    left = dict(caps)
    full = {code for code, cap in caps.items() if cap == 0}
    kept: list[int] = []
    for position in order.tolist():
        codes = categories[position].tolist()
        if not full.isdisjoint(codes):
            continue
        kept.append(position)
        for code in codes:
            if code == NO_CODE:
                continue
            # `remaining` is 0 only for a code without a cap: items with a full code were skipped above.
            remaining = left.get(code, default_cap)
            if remaining == 1:
                full.add(code)
            elif remaining:
                left[code] = remaining - 1
    return np.array(kept, dtype=np.int64)
