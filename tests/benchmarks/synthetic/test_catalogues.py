"""A synthetic catalogue is a bundle that the server accepts."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from benchmarks.synthetic.catalogues import CatalogueSpec, build, renamed
from benchmarks.synthetic.columns import BRAND, PRICE
from benchmarks.synthetic.users import MAX_EVENTS, MIN_EVENTS, USERS_WITHOUT_VECTOR, publish
from inference_server.bundle_check.golden_queries import check_bundle
from tandem.contract.store import UserState, UserVector, user_state_key, user_vector_key
from tests.support.serving import valkey

SPEC = CatalogueSpec(name="test", num_items=400, index="IVF8,Flat", min_recall=0.9, num_users=30)


@pytest.fixture(scope="module")
def catalogue(tmp_path_factory):
    return build(SPEC, tmp_path_factory.mktemp("catalogues"))


def test_the_bundle_passes_the_servers_check(catalogue) -> None:
    report = check_bundle(catalogue.bundle.directory)
    assert (report.num_items, report.golden_overlap) == (400, 1.0)
    assert catalogue.bundle.manifest.index.recall_at_100 >= SPEC.min_recall


def test_items_have_what_filters_ask_for(catalogue) -> None:
    item = catalogue.bundle.items.item(7)
    assert item.item_id == "item-7"
    assert item.categories
    assert set(item.attributes) == {BRAND, PRICE}
    assert float(item.attributes[PRICE]) > 0


def test_popularity_falls_like_zipfs(catalogue) -> None:
    popularity = np.sort(catalogue.bundle.items.popularity)[::-1]
    assert popularity[0] > 5 * np.median(popularity)
    assert popularity[-1] >= 1


def test_content_neighbours_are_other_items_and_near(catalogue) -> None:
    content = catalogue.bundle.content
    neighbours, vectors = content.neighbours, content.vectors.astype(np.float32)
    rows = np.arange(400)
    assert not (neighbours == rows[:, None]).any()
    near = (vectors * vectors[neighbours[:, 0]]).sum(axis=1)
    anything = (vectors * vectors[(rows + 200) % 400]).sum(axis=1)
    assert near.mean() > anything.mean() + 0.2


def test_it_is_built_once(catalogue) -> None:
    again = build(SPEC, catalogue.bundle.directory.parents[1], log=lambda text: pytest.fail(text))
    assert again.bundle.manifest == catalogue.bundle.manifest
    other = dataclasses.replace(SPEC, seed=1)
    assert other.fingerprint != SPEC.fingerprint


def test_a_renamed_bundle_differs_in_its_name_alone(catalogue, tmp_path_factory) -> None:
    directory = catalogue.bundle.directory.parent / "renamed"
    assert renamed(catalogue.bundle, directory, "another").manifest.model_version == "another"
    assert check_bundle(directory).model_version == "another"


@pytest.mark.process
async def test_users_are_published_as_feature_sync_publishes_them(catalogue, tmp_path) -> None:
    users, bundle = catalogue.users, catalogue.bundle
    async with valkey(tmp_path) as store, store.client() as client:
        await publish(users, bundle, store.url)
        for user in (0, 1):
            user_id = users.user_id(user)
            state = UserState.from_bytes(await client.get(user_state_key(user_id)))
            assert MIN_EVENTS <= len(state.event_item_keys) <= MAX_EVENTS
            stored = await client.get(user_vector_key(bundle.manifest.model_version, user_id))
            assert (stored is None) == (user % USERS_WITHOUT_VECTOR == 0)
        vector = UserVector.from_bytes(stored)
    assert vector.state_revision == state.revision
    np.testing.assert_allclose(np.linalg.norm(vector.values), 1.0, rtol=1e-5)
