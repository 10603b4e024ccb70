"""Filtered retrieval against brute force, over exact search and the IVF index alike: never a forbidden item, never
short, and the very nearest items where all lists are searched."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inference_server.api.wire import LONG_LIST
from inference_server.core.query import AttributePredicate, ItemFilter
from inference_server.model.catalogue.item_mask import MAX_LISTED_ROWS
from inference_server.model.engine.exact import ExactSearch
from inference_server.model.engine.search import Allowed, Found, ItemSearch
from inference_server.model.serving_model import ServingModel, open_model
from inference_server.request.stages.filter_items import allowed_by_filter, look_up_long_list
from tandem.contract.vocabulary import MISSING_ROW
from tests.inference_server.conftest import build
from tests.support.tiny_bundle import CATEGORIES, RARE

FEW, MANY = 300, 6_000
COLOURS = ("red", "green", "blue")


def attributes(row: int) -> dict[str, str]:
    """A price, a number, for two items in three; a colour for all; a size for a few items, for some not a number."""
    values = {"colour": COLOURS[row % 3]}
    if row % 3:
        values["price"] = str((row % 40) / 4)
    if row % 50 == 0:
        values["size"] = "large" if row % 100 else "7"
    return values


@pytest.fixture(scope="module", params=[FEW, MANY])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> ServingModel:
    """The larger bundle has over MAX_LISTED_ROWS items, so that a filter may leave too many to score one by one."""
    directory = tmp_path_factory.mktemp("bundles") / "attributes"
    bundle = build(directory, num_items=request.param, dim=8, num_lists=16, nprobe=2, attributes=attributes)
    return open_model(bundle.directory, verify_checksums=False)


@pytest.fixture(scope="module", params=["exact", "index"])
def search(request: pytest.FixtureRequest, model: ServingModel) -> ItemSearch:
    return ExactSearch.from_vectors(model.bundle.item_vectors) if request.param == "exact" else model.index


@dataclass(frozen=True)
class Asked:
    """The request of one user of the batch."""

    item_filter: ItemFilter
    seed: int
    num_seen: int


def numbers_or_none() -> st.SearchStrategy[float | None]:
    return st.none() | st.sampled_from([-1.0, 0.0, 2.5, 5.0, 9.75, 11.0])


categories = st.lists(st.sampled_from([*CATEGORIES, RARE, "no such"]), max_size=2, unique=True).map(tuple)
predicates = st.one_of(
    st.builds(
        AttributePredicate,
        name=st.just("price"),
        none_of=st.lists(st.sampled_from(["0.25", "5.0", "7"]), max_size=2).map(tuple),
        min=numbers_or_none(),
        max=numbers_or_none(),
    ),
    st.builds(
        AttributePredicate,
        name=st.sampled_from(["colour", "size", "no such"]),
        any_of=st.lists(st.sampled_from([*COLOURS, "large", "7"]), max_size=2).map(tuple),
        none_of=st.lists(st.sampled_from([*COLOURS, "large"]), max_size=2).map(tuple),
    ),
)
excluded_ids = st.builds(
    lambda seed, count: tuple(f"item-{n}" for n in np.random.default_rng(seed).integers(0, MANY + 100, count)),
    st.integers(0, 2**32 - 1),
    st.sampled_from([0, 3, 100, LONG_LIST + 1, 2_000]),
)


def with_digest(item_filter: ItemFilter) -> ItemFilter:
    """The filter with a digest if its list is long, as `wire` makes it."""
    if len(item_filter.exclude_item_ids) <= LONG_LIST:
        return item_filter
    digest = hashlib.blake2b(repr(item_filter).encode(), digest_size=16).digest()
    return ItemFilter(
        include_categories=item_filter.include_categories,
        exclude_categories=item_filter.exclude_categories,
        exclude_item_ids=item_filter.exclude_item_ids,
        exclude_digest=digest,
        attributes=item_filter.attributes,
    )


filters = st.builds(
    ItemFilter,
    include_categories=st.just(()) | categories,
    exclude_categories=st.just(()) | categories,
    exclude_item_ids=st.just(()) | excluded_ids,
    attributes=st.just(()) | st.lists(predicates, max_size=2).map(tuple),
).map(with_digest)
# Few seen items are over-fetched, more than 400 need a bitmap.
users = st.builds(Asked, filters, st.integers(0, 2**32 - 1), st.sampled_from([0, 5, 60, 1_000]))
batches = st.lists(users, min_size=1, max_size=4)
counts = st.sampled_from([1, 10, 100, 500])


def meets(value: str | None, predicate: AttributePredicate) -> bool:
    """Whether an item's value meets a predicate, by the definition of the API."""
    if value is None:
        return not predicate.any_of and predicate.min is None and predicate.max is None
    if predicate.any_of and value not in predicate.any_of:
        return False
    if value in predicate.none_of:
        return False
    if predicate.min is not None and float(value) < predicate.min:
        return False
    return predicate.max is None or float(value) <= predicate.max


_ITEMS: dict[int, list[tuple[str, frozenset[str], dict[str, str]]]] = {}


def items_of(model: ServingModel) -> list[tuple[str, frozenset[str], dict[str, str]]]:
    """Id, categories and attributes of all items, read once."""
    num_items = len(model.bundle.items)
    if num_items not in _ITEMS:
        items = [model.bundle.items.item(row) for row in range(num_items)]
        _ITEMS[num_items] = [
            (item.item_id, frozenset(item.categories), attributes(row)) for row, item in enumerate(items)
        ]
    return _ITEMS[num_items]


def expected_mask(model: ServingModel, item_filter: ItemFilter, seen: Sequence[int]) -> np.ndarray:
    """The filter once more, item by item: (items,) bool."""
    included, excluded = set(item_filter.include_categories), set(item_filter.exclude_categories)
    ids = set(item_filter.exclude_item_ids)
    mask = np.array(
        [
            (not included or bool(own & included))
            and not own & excluded
            and item_id not in ids
            and all(meets(values.get(predicate.name), predicate) for predicate in item_filter.attributes)
            for item_id, own, values in items_of(model)
        ]
    )
    mask[list(seen)] = False
    return mask


async def find(
    model: ServingModel, search: ItemSearch, batch: list[Asked], num_items: int, *, exhaustive: bool
) -> tuple[np.ndarray, list[np.ndarray], Found]:
    """Returns the vectors of a batch, the items that each user is allowed, and the result."""
    vectors = np.stack([np.random.default_rng(asked.seed).standard_normal(8, dtype=np.float32) for asked in batch])
    masks: list[np.ndarray] = []
    allowed: list[Allowed] = []
    for asked in batch:
        seen = np.random.default_rng(asked.seed).integers(0, len(model.bundle.items), asked.num_seen)
        await look_up_long_list(asked.item_filter, model)
        allowed.append(allowed_by_filter(asked.item_filter, model, seen))
        masks.append(expected_mask(model, asked.item_filter, seen.tolist()))
    return vectors, masks, search.nearest(vectors, num_items, allowed, exhaustive=exhaustive)


@given(batch=batches, num_items=counts)
@settings(max_examples=60, deadline=None)
async def test_all_lists_give_what_brute_force_gives(
    model: ServingModel, search: ItemSearch, batch: list[Asked], num_items: int
) -> None:
    vectors, masks, found = await find(model, search, batch, num_items, exhaustive=True)
    for vector, mask, rows, scores in zip(vectors, masks, found.rows, found.scores, strict=True):
        allowed = np.flatnonzero(mask)
        every = model.bundle.item_vectors[allowed] @ vector
        best = allowed[np.argsort(-every, kind="stable")][:num_items]
        held = rows != MISSING_ROW
        assert set(rows[held].tolist()) == set(best.tolist())
        assert not held[len(best) :].any()
        np.testing.assert_allclose(scores[held], np.sort(every)[::-1][:num_items], rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(scores[held], model.bundle.item_vectors[rows[held]] @ vector, rtol=1e-4, atol=1e-5)
        assert np.isneginf(scores[~held]).all()


@given(batch=batches, num_items=counts)
@settings(max_examples=60, deadline=None)
async def test_never_forbidden_never_twice_never_short(
    model: ServingModel, search: ItemSearch, batch: list[Asked], num_items: int
) -> None:
    _, masks, found = await find(model, search, batch, num_items, exhaustive=False)
    for mask, rows, scores in zip(masks, found.rows, found.scores, strict=True):
        held = rows[rows != MISSING_ROW]
        assert mask[held].all()
        assert len(set(held.tolist())) == len(held)
        assert len(held) == min(num_items, int(mask.sum()))
        assert (np.diff(scores[: len(held)]) <= 0).all()


@given(batch=batches, num_items=counts)
@settings(max_examples=30, deadline=None)
async def test_exact_search_tells_the_scores_of_the_items_that_it_did_not_find(
    model: ServingModel, batch: list[Asked], num_items: int
) -> None:
    exact = ExactSearch.from_vectors(model.bundle.item_vectors)
    vectors, masks, found = await find(model, exact, batch, num_items, exhaustive=False)
    assert found.remaining_scores is not None
    for vector, mask, rows, scores in zip(vectors, masks, found.rows, found.remaining_scores, strict=True):
        remains = mask.copy()
        remains[rows[rows != MISSING_ROW]] = False
        assert (np.isneginf(scores) == ~remains).all()
        expected = model.bundle.item_vectors[remains] @ vector
        np.testing.assert_allclose(scores[remains], expected, rtol=1e-4, atol=1e-5)


async def test_a_filter_may_leave_more_than_are_scored_one_by_one(model: ServingModel) -> None:
    """Ensures that the examples above cover both ways: a bitmap in the index, and exact scores of a few items."""
    wide = allowed_by_filter(ItemFilter(exclude_categories=(RARE,)), model, np.empty(0, dtype=np.int64))
    narrow = allowed_by_filter(ItemFilter(include_categories=(RARE,)), model, np.empty(0, dtype=np.int64))
    assert wide.mask is not None
    assert narrow.mask is not None
    assert narrow.mask.rows is not None
    assert (wide.mask.rows is None) == (len(model.bundle.items) > MAX_LISTED_ROWS)
