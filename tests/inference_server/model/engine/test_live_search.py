"""Retrieval over a bundle and random changes of it against brute force over the merged catalogue."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inference_server.api.wire import LONG_LIST
from inference_server.core.query import AttributePredicate, ItemFilter
from inference_server.model.engine.exact import ExactSearch
from inference_server.model.engine.live_search import LiveSearch
from inference_server.model.engine.search import Allowed, Found
from inference_server.model.serving_model import ServingModel, open_model
from inference_server.request.stages.filter_items import allowed_by_filter, look_up_long_list
from tandem.contract.live_items import LiveItemVector
from tandem.contract.streams import AppliedItemChange
from tandem.contract.vocabulary import MISSING_ROW, id_keys
from tests.inference_server.conftest import build
from tests.inference_server.live.scenarios import (
    COLOURS,
    Known,
    attributes_of,
    changed_model,
    expected_items,
    over_index,
    passes,
    random_changes,
)
from tests.support.tiny_bundle import CATEGORIES, RARE

FEW, MANY, DIM = 300, 5_000, 8


@pytest.fixture(scope="module", params=[FEW, MANY])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> ServingModel:
    """The larger bundle has over MAX_LISTED_ROWS items, so that a filter may leave too many to score one by one."""
    directory = tmp_path_factory.mktemp("bundles") / "live"
    bundle = build(directory, num_items=request.param, dim=DIM, num_lists=16, nprobe=2, attributes=attributes_of)
    return open_model(bundle.directory, verify_checksums=False)


@dataclass(frozen=True)
class Asked:
    """The request of one user of the batch."""

    item_filter: ItemFilter
    seed: int
    num_seen: int


categories = st.lists(st.sampled_from([*CATEGORIES, RARE]), max_size=2, unique=True).map(tuple)
predicates = st.one_of(
    st.builds(
        AttributePredicate, name=st.just("price"), min=st.none() | st.just(2.5), max=st.none() | st.sampled_from([5.0])
    ),
    st.builds(AttributePredicate, name=st.just("colour"), any_of=st.sampled_from([(), ("red",), COLOURS[:2]])),
)
excluded = st.builds(
    lambda seed, count: tuple(
        f"{prefix}-{n}" for n in np.random.default_rng(seed).integers(0, 400, count) for prefix in ("item", "new")
    ),
    st.integers(0, 2**32 - 1),
    st.sampled_from([0, 3, 50, LONG_LIST]),
)


def with_digest(item_filter: ItemFilter) -> ItemFilter:
    """The filter with a digest if its list is long, as `wire` makes it."""
    if len(item_filter.exclude_item_ids) <= LONG_LIST:
        return item_filter
    digest = hashlib.blake2b(repr(item_filter.exclude_item_ids).encode(), digest_size=16).digest()
    return replace(item_filter, exclude_digest=digest)


filters = st.builds(
    ItemFilter,
    include_categories=st.just(()) | categories,
    exclude_categories=st.just(()) | categories,
    exclude_item_ids=st.just(()) | excluded,
    attributes=st.just(()) | st.lists(predicates, max_size=2).map(tuple),
).map(with_digest)
batches = st.lists(
    st.builds(Asked, filters, st.integers(0, 2**32 - 1), st.sampled_from([0, 5, 60, 500])), min_size=1, max_size=3
)
scenarios = st.tuples(st.integers(0, 2**32 - 1), st.sampled_from([0, 1, 40, 200]))
counts = st.sampled_from([1, 10, 100, 400])


@dataclass(frozen=True)
class Example:
    """A batch of queries to a changed catalogue, the items that each user may get, and the result."""

    model: ServingModel
    vectors: np.ndarray
    allowed_ids: list[dict[str, Known]]
    found: Found


async def ask(
    model: ServingModel,
    changes: list[AppliedItemChange],
    live_vectors: dict[str, LiveItemVector],
    batch: list[Asked],
    num_items: int,
    *,
    exhaustive: bool,
) -> Example:
    expected = expected_items(model, changes, live_vectors)
    all_ids = [*(f"item-{row}" for row in range(len(model.bundle.items))), *sorted(live_vectors)]
    vectors = np.stack([np.random.default_rng(asked.seed).standard_normal(DIM, dtype=np.float32) for asked in batch])
    allowed: list[Allowed] = []
    allowed_ids = []
    for asked in batch:
        seen = set(np.random.default_rng(asked.seed).choice(all_ids, min(asked.num_seen, len(all_ids))).tolist())
        await look_up_long_list(asked.item_filter, model)
        seen_rows = model.known_rows(id_keys(seen))
        allowed.append(allowed_by_filter(asked.item_filter, model, seen_rows))
        left_out = seen | set(asked.item_filter.exclude_item_ids)
        allowed_ids.append(
            {
                item_id: item
                for item_id, item in expected.items()
                if item_id not in left_out and passes(item, asked.item_filter)
            }
        )
    found = model.search.nearest(vectors, num_items, allowed, exhaustive=exhaustive)
    return Example(model, vectors, allowed_ids, found)


@pytest.mark.parametrize("engine", ["exact", "index"])
@given(scenario=scenarios, batch=batches, num_items=counts)
@settings(max_examples=25, deadline=None)
async def test_all_lists_give_what_brute_force_gives(
    engine: str, model: ServingModel, scenario: tuple[int, int], batch: list[Asked], num_items: int
) -> None:
    changes, live_vectors = random_changes(*scenario, len(model.bundle.items), DIM)
    changed = changed_model(model if engine == "exact" else over_index(model), changes, live_vectors)
    example = await ask(changed, changes, live_vectors, batch, num_items, exhaustive=True)
    for user, allowed in enumerate(example.allowed_ids):
        every = sorted(((float(item.vector @ example.vectors[user]), item_id) for item_id, item in allowed.items()))
        best = every[::-1][:num_items]
        rows = example.found.rows[user]
        held = rows[rows != MISSING_ROW]
        assert set(changed.catalogue.item_ids(held)) == {item_id for _, item_id in best}
        np.testing.assert_allclose(
            example.found.scores[user][: len(held)], [score for score, _ in best], rtol=1e-4, atol=1e-5
        )
        assert np.isneginf(example.found.scores[user][len(held) :]).all()


@given(scenario=scenarios, batch=batches, num_items=counts)
@settings(max_examples=25, deadline=None)
async def test_never_forbidden_never_twice_never_short(
    model: ServingModel, scenario: tuple[int, int], batch: list[Asked], num_items: int
) -> None:
    changes, live_vectors = random_changes(*scenario, len(model.bundle.items), DIM)
    changed = changed_model(over_index(model), changes, live_vectors)
    example = await ask(changed, changes, live_vectors, batch, num_items, exhaustive=False)
    for user, allowed in enumerate(example.allowed_ids):
        rows = example.found.rows[user]
        ids = changed.catalogue.item_ids(rows[rows != MISSING_ROW])
        assert set(ids) <= allowed.keys()
        assert len(set(ids)) == len(ids) == min(num_items, len(allowed))


@given(scenario=scenarios, item_filter=filters)
@settings(max_examples=25, deadline=None)
async def test_popular_lists_know_every_item_and_no_dead_one(
    model: ServingModel, scenario: tuple[int, int], item_filter: ItemFilter
) -> None:
    changes, live_vectors = random_changes(*scenario, len(model.bundle.items), DIM)
    catalogue = changed_model(model, changes, live_vectors).catalogue
    right = expected_items(model, changes, live_vectors)
    rows = np.unique(np.concatenate(list(catalogue.popular_rows(item_filter.include_categories))))
    assert set(catalogue.item_ids(catalogue.recommendable(rows))) == right.keys()
    assert set(catalogue.item_ids(catalogue.top_rows(20))) <= right.keys()


def test_engines_are_those_that_serve(model: ServingModel) -> None:
    changes, live_vectors = random_changes(1, 40, len(model.bundle.items), DIM)
    assert isinstance(changed_model(model, changes, live_vectors).search, ExactSearch)
    assert isinstance(changed_model(over_index(model), changes, live_vectors).search, LiveSearch)
    assert changed_model(model, [], {}).search is model.bundle_search, "what did not change costs nothing"
    assert changed_model(model, [], {}).catalogue is model.bundle_catalogue
