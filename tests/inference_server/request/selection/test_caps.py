"""Caps: against the definition, item by item."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from inference_server.request.selection.caps import NO_CODE, apply_caps, category_codes

CODES = 4


def test_categories_have_codes() -> None:
    names, codes = category_codes([["drama", "opera"], ["opera"], []])
    assert names == ["drama", "opera"]
    assert codes.tolist() == [[0, 1], [1, NO_CODE], [NO_CODE, NO_CODE]]


def by_definition(order: list[int], categories: list[list[int]], caps: dict[int, int], default_cap: int) -> list[int]:
    """Takes an item if the answer with it breaks no cap."""
    taken: list[int] = []
    for position in order:
        answer = [*taken, position]
        counts = {code: sum(code in categories[item] for item in answer) for code in range(CODES)}
        limits = {code: caps.get(code, default_cap if default_cap else len(order)) for code in range(CODES)}
        if all(counts[code] <= limits[code] for code in range(CODES)):
            taken.append(position)
    return taken


@st.composite
def pools(draw: st.DrawFn) -> tuple[list[int], list[list[int]]]:
    num = draw(st.integers(0, 12))
    item_codes = st.lists(st.integers(0, CODES - 1), max_size=3, unique=True)
    categories = draw(st.lists(item_codes, min_size=num, max_size=num))
    order = draw(st.permutations(range(num)))
    return order[: draw(st.integers(0, num))], categories


def matrix(categories: list[list[int]]) -> np.ndarray:
    width = max(map(len, categories), default=0)
    rows = [codes + [NO_CODE] * (width - len(codes)) for codes in categories]
    return np.array(rows, dtype=np.int64).reshape(len(categories), width)


@given(
    pool=pools(),
    caps=st.dictionaries(st.integers(0, CODES - 1), st.integers(0, 3)),
    default_cap=st.integers(0, 3),
)
def test_it_is_what_the_definition_says(
    pool: tuple[list[int], list[list[int]]], caps: dict[int, int], default_cap: int
) -> None:
    order, categories = pool
    kept = apply_caps(np.array(order, dtype=np.int64), matrix(categories), caps=caps, default_cap=default_cap)
    assert kept.dtype == np.int64
    assert kept.tolist() == by_definition(order, categories, caps, default_cap)


def test_without_caps_it_is_the_order() -> None:
    order = np.array([3, 1, 2, 0])
    assert apply_caps(order, matrix([[0]] * 4), caps={}, default_cap=0).tolist() == [3, 1, 2, 0]


def test_items_without_a_category_are_never_capped() -> None:
    kept = apply_caps(np.arange(5), matrix([[], [0], [], [0], []]), caps={}, default_cap=1)
    assert kept.tolist() == [0, 1, 2, 4]


def test_one_full_category_is_enough_to_skip_an_item() -> None:
    kept = apply_caps(np.arange(3), matrix([[0], [0, 1], [1]]), caps={0: 1}, default_cap=0)
    assert kept.tolist() == [0, 2]


def test_a_cap_of_its_own_is_stronger_than_the_default() -> None:
    kept = apply_caps(np.arange(6), matrix([[0], [0], [0], [1], [1], [1]]), caps={0: 2}, default_cap=1)
    assert kept.tolist() == [0, 1, 3]


@given(pool=pools(), default_cap=st.integers(1, 3), data=st.data())
def test_every_part_of_what_is_kept_keeps_the_caps(
    pool: tuple[list[int], list[list[int]]], default_cap: int, data: st.DataObject
) -> None:
    order, categories = pool
    codes = matrix(categories)
    kept = apply_caps(np.array(order, dtype=np.int64), codes, caps={}, default_cap=default_cap)
    part = np.array(data.draw(st.permutations(kept.tolist())), dtype=np.int64)[: data.draw(st.integers(0, len(kept)))]
    again = apply_caps(part, codes, caps={}, default_cap=default_cap)
    assert again.tolist() == part.tolist()
