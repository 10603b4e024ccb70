"""Caps: at most so many items of a category in one answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

NO_CODE: Final = -1
"""Fills the rows of items with fewer categories than others."""


def category_codes(categories: Sequence[Sequence[str]]) -> tuple[list[str], npt.NDArray[np.int64]]:
    """Category names of n items as codes: the name of each code, and (n, m) int64, filled up with NO_CODE."""
    code_of: dict[str, int] = {}
    codes = [[code_of.setdefault(name, len(code_of)) for name in names] for names in categories]
    padded = np.full((len(codes), max(map(len, codes), default=0)), NO_CODE, dtype=np.int64)
    for item, item_codes in enumerate(codes):
        padded[item, : len(item_codes)] = item_codes
    return list(code_of), padded


def apply_caps(
    order: npt.NDArray[np.int64],
    categories: npt.NDArray[np.int64],
    *,
    caps: Mapping[int, int],
    default_cap: int,
    num_items: int,
) -> tuple[npt.NDArray[np.int64], int]:
    """The first `num_items` of `order` that no cap forbids, order kept, and how many are missing to `num_items`.

    `order` is (k,) int64, positions in `categories`, which is (n, m) int64: each candidate's category codes, none
    twice, filled up with NO_CODE. `caps` is the most items by code; codes that it lacks have `default_cap`, 0: no cap.
    An item counts for all its categories, and is skipped if one of them is full. Caps are hard: what they leave out
    is not shown even where nothing else is left, so the second number says how many more candidates would be needed.
    """
    if not caps and default_cap == 0:
        chosen = order[:num_items]
        return chosen, num_items - len(chosen)
    left = dict(caps)
    full = {code for code, cap in caps.items() if cap == 0}
    kept: list[int] = []
    for position in order.tolist():
        if len(kept) == num_items:
            break
        # One row at a time: most of a pool is never reached.
        codes = categories[position].tolist()
        if not full.isdisjoint(codes):
            continue
        kept.append(position)
        for code in codes:
            if code == NO_CODE:
                continue
            # 0 only where there is no cap: a code that is full was met above.
            remaining = left.get(code, default_cap)
            if remaining == 1:
                full.add(code)
            elif remaining:
                left[code] = remaining - 1
    return np.array(kept, dtype=np.int64), num_items - len(kept)
