"""Vectors of changed items: as in training, for every live bundle, for items that may be recommended."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from feature_sync.core.settings import Settings
from feature_sync.items.feed import prune, raise_sequence
from feature_sync.items.maker import VectorMaker
from feature_sync.items.publish import publish_item_vectors
from feature_sync.operations.show_item import show_item
from feature_sync.store.connection import StoreConnection
from feature_sync.towers.item_tower import ItemTower
from feature_sync.towers.texts import TextEmbeddings
from tandem.contract.bundle import Bundle
from tandem.contract.live_items import item_vectors_feed, item_vectors_position_key
from tandem.contract.streams import ItemChange
from tests.feature_sync.items.conftest import LiveCatalogue, change
from tests.support.tiny_bundle import build_tiny_bundle
from tests.support.trained import TrainedModel, copy_bundle

pytestmark = pytest.mark.process

Make = Callable[..., VectorMaker]


@pytest.fixture(scope="module")
def texts() -> TextEmbeddings:
    return TextEmbeddings(threads=1)


@pytest.fixture
def settings(catalogue: LiveCatalogue, trained: TrainedModel, tmp_path: Path) -> Settings:
    return Settings(store_url=catalogue.url, registry_uri=trained.registry_uri, data_dir=tmp_path / "data")


@pytest.fixture
def maker(catalogue: LiveCatalogue, settings: Settings) -> Make:
    """Makes a VectorMaker; the bundles in the list at the time of a step are live."""

    def make(bundles: list[Bundle], **changes: object) -> VectorMaker:
        return VectorMaker(
            settings.model_copy(update=changes),
            StoreConnection(catalogue.url),
            live_bundles=lambda: bundles,
            metrics=catalogue.metrics,
        )

    return make


def as_trained(bundle: Bundle, row: int) -> ItemChange:
    """A change with the contents that the item had when the bundle was trained."""
    item = bundle.items.item(row)
    return change(item.item_id, title=item.title, categories=item.categories)


def test_items_have_the_vectors_that_training_gave_them(trained: TrainedModel, texts: TextEmbeddings) -> None:
    bundle = trained.bundle
    vectors = ItemTower(bundle, texts).vectors([as_trained(bundle, row) for row in range(len(bundle.items))])
    assert np.abs(vectors.values - bundle.item_vectors).max() < 1e-5
    assert vectors.is_known.all()


def test_a_new_item_is_near_items_of_its_colour(trained: TrainedModel, texts: TextEmbeddings) -> None:
    bundle = trained.bundle
    vector = ItemTower(bundle, texts).vectors([change("new")]).values[0]
    is_black = np.array([bundle.items.title(row) == "A black square" for row in range(len(bundle.items))])
    similarities = bundle.item_vectors @ vector
    assert similarities[is_black].min() > similarities[~is_black].max()


def test_the_trainer_encodes_an_unknown_item_the_same(trained: TrainedModel, texts: TextEmbeddings) -> None:
    from tandem.contract import names
    from tandem.ops.onnx_session import OnnxSession
    from trainer.config.train_config import load_train_config
    from trainer.dataset.dataset import load_dataset
    from trainer.features.schema import catalogue_texts, item_inputs
    from trainer.features.text import embed_texts

    bundle, catalogue = trained.bundle, load_dataset(trained.prepared).catalogue
    schema = bundle.manifest.feature_schema
    config = load_train_config(None, {"text.max_tokens": str(schema.text_max_tokens)}).text
    embeddings = embed_texts(
        catalogue_texts(catalogue),
        config,
        cache_dir=trained.prepared / "parity",
        device="cpu",  # type: ignore[arg-type]
    )
    tensors = item_inputs(catalogue, schema, text_embeddings=embeddings, popularity=np.zeros(len(catalogue), np.int64))
    assert not tensors[names.ITEM_INDEX].any()
    expected = OnnxSession(bundle.item_tower)(tensors)
    unknown = [
        change(f"unknown-{row}", title=catalogue.titles[row], categories=tuple(catalogue.categories[row]))
        for row in range(len(catalogue))
    ]
    assert np.abs(ItemTower(bundle, texts).vectors(unknown).values - expected).max() < 1e-5


def test_an_item_without_known_features_has_no_vector(trained: TrainedModel, texts: TextEmbeddings) -> None:
    tower = ItemTower(trained.bundle, texts)
    known = tower.vectors(
        [change("x", title="", categories=()), change("x", title="", categories=("never seen",)), change("x")]
    ).is_known
    assert known.tolist() == [False, False, True]


def test_vectors_follow_changes(catalogue: LiveCatalogue, trained: TrainedModel, maker: Make) -> None:
    version = trained.bundle.manifest.model_version
    vectors = maker([trained.bundle])
    catalogue.apply(change("new", 1), change("hidden", 1, available=False), change("gone", 1, deleted=True))
    vectors.step()
    made = catalogue.vectors(version)
    assert list(made) == ["new"]
    assert made["new"].change_sequence == 1
    catalogue.apply(change("new", 2, title="A white square", categories=("white",)), change("hidden", 2))
    vectors.step()
    again = catalogue.vectors(version)
    assert again["new"].change_sequence == 4
    assert np.abs(again["new"].values - made["new"].values).max() > 0.01
    assert again["hidden"].change_sequence == 5
    catalogue.apply(change("new", 3, deleted=True))
    vectors.step()
    assert list(catalogue.vectors(version)) == ["hidden"]
    feed = item_vectors_feed(version)
    assert catalogue.client.zrange(feed.changes, 0, -1, withscores=True) == [(b"hidden", 5.0)]
    assert catalogue.client.get(feed.sequence) == b"5"
    assert catalogue.client.get(item_vectors_position_key(version)) == b"6"
    assert catalogue.count("tandem_sync_item_vectors_total") == 3


def test_a_new_bundle_gets_the_vectors_of_changes_it_has_not_merged(
    catalogue: LiveCatalogue, trained: TrainedModel, maker: Make, tmp_path: Path
) -> None:
    live = [trained.bundle]
    vectors = maker(live)
    catalogue.apply(change("merged", 1), change("later", 2))
    vectors.step()
    live.insert(0, copy_bundle(trained.bundle, tmp_path / "next", model_version="next", catalogue_sequence=1))
    vectors.step()
    assert list(catalogue.vectors("next")) == ["later"]
    catalogue.apply(change("latest", 3))
    vectors.step()
    assert set(catalogue.vectors("next")) == {"later", "latest"}
    assert set(catalogue.vectors(trained.bundle.manifest.model_version)) == {"merged", "later", "latest"}


def test_publishing_makes_the_vectors_before_a_bundle_is_served(
    catalogue: LiveCatalogue, settings: Settings, trained: TrainedModel
) -> None:
    version = trained.bundle.manifest.model_version
    opened = []

    def open_bundle() -> Bundle:
        opened.append(version)
        return trained.bundle

    assert publish_item_vectors(settings, version, open_bundle) == 0
    assert not opened  # without changes, the bundle is not opened
    catalogue.apply(*(change(f"new-{number}", number) for number in range(100)))
    assert publish_item_vectors(settings, version, open_bundle) == 100
    assert publish_item_vectors(settings, version, open_bundle) == 0
    assert len(opened) == 1
    assert 0 < catalogue.client.ttl(item_vectors_feed(version).values) <= settings.vector_ttl_seconds


def test_a_bundle_whose_texts_cannot_be_encoded_does_not_delay_other_bundles(
    catalogue: LiveCatalogue, trained: TrainedModel, maker: Make, tmp_path: Path
) -> None:
    from dataclasses import replace

    schema = replace(trained.bundle.manifest.feature_schema, text_encoder=str(tmp_path / "nowhere"))
    foreign = replace(
        trained.bundle, manifest=replace(trained.bundle.manifest, model_version="foreign", feature_schema=schema)
    )
    vectors = maker([foreign, trained.bundle])
    catalogue.apply(change("new", 1))
    vectors.step()
    assert list(catalogue.vectors(trained.bundle.manifest.model_version)) == ["new"]
    assert catalogue.vectors("foreign") == {}
    assert catalogue.count("tandem_sync_item_vector_failures_total") == 1


def test_a_tower_that_reads_only_ids_makes_no_vector_of_a_new_item(
    catalogue: LiveCatalogue, maker: Make, tmp_path: Path
) -> None:
    bundle = build_tiny_bundle(tmp_path / "tiny")
    catalogue.apply(change("new", 1), change("item-3", 2))
    maker([bundle]).step()
    made = catalogue.vectors(bundle.manifest.model_version)
    assert list(made) == ["item-3"]
    assert np.array_equal(made["item-3"].values, bundle.item_vectors[3])


def test_merged_items_are_pruned_after_their_time_and_keep_their_slot(catalogue: LiveCatalogue) -> None:
    catalogue.apply(
        change("old", 1), change("deleted", 1, deleted=True), change("hidden", 1, available=False), change("young", 50)
    )
    catalogue.apply(change("old and changed again", 1))
    slot = catalogue.place("old").slot
    limit = change("", 10).changed_at
    assert prune(catalogue.connection, merged_sequence=4, changed_before=limit) == 1
    assert set(catalogue.changed()) == {"deleted", "hidden", "young", "old and changed again"}
    assert catalogue.entry("old") is None
    catalogue.apply(change("old", 0), change("old", 60))
    again = catalogue.entry("old")
    assert again is not None
    assert (again.slot, again.sequence) == (slot, 6)


def test_the_maker_prunes_what_every_live_bundle_has(
    catalogue: LiveCatalogue, trained: TrainedModel, maker: Make, tmp_path: Path
) -> None:
    past = {"changed_at": 1_600_000_000_000_000}
    catalogue.apply(change("a", **past), change("b", **past), change("c", **past))
    bundles = [
        copy_bundle(trained.bundle, tmp_path / name, model_version=name, catalogue_sequence=merged)
        for name, merged in (("newer", 2), ("older", 1))
    ]
    maker(bundles).step()
    assert catalogue.changed() == ["b", "c"]


def test_sequences_continue_from_the_bundles_after_the_store_is_emptied(
    catalogue: LiveCatalogue, trained: TrainedModel, maker: Make, tmp_path: Path
) -> None:
    bundle = copy_bundle(trained.bundle, tmp_path / "next", model_version="next", catalogue_sequence=40)
    vectors = maker([bundle])
    vectors.step()
    catalogue.apply(change("new", 1))
    vectors.step()
    assert catalogue.sequence == 41
    assert list(catalogue.vectors("next")) == ["new"]
    raise_sequence(catalogue.connection, 7)
    assert catalogue.sequence == 41


def test_vectors_of_removed_bundles_expire_and_of_live_bundles_do_not(
    catalogue: LiveCatalogue, trained: TrainedModel, maker: Make
) -> None:
    version = trained.bundle.manifest.model_version
    catalogue.apply(change("new", 1))
    maker([trained.bundle], vector_ttl_seconds=100).step()
    feed = item_vectors_feed(version)
    keys = [feed.values, feed.changes, feed.sequence, item_vectors_position_key(version)]
    assert all(0 < catalogue.client.ttl(key) <= 100 for key in keys)
    maker([trained.bundle], vector_ttl_seconds=1000).step()  # without changes, only the time to live is renewed
    assert all(100 < catalogue.client.ttl(key) <= 1000 for key in keys)
    with pytest.raises(ValidationError):
        Settings(vector_ttl_seconds=-1)


def test_show_item(catalogue: LiveCatalogue, settings: Settings, trained: TrainedModel, maker: Make) -> None:
    version = trained.bundle.manifest.model_version
    assert show_item(settings, "new") == {
        "item_id": "new",
        "catalogue_sequence": 0,
        "place": None,
        "change": None,
        "vectors": {version: {"made_up_to_sequence": 0, "vector": None}},
    }
    catalogue.apply(change("new", 1, description="It is black.", attributes={"price": "3"}))
    maker([trained.bundle]).step()
    shown = show_item(settings, "new")
    assert shown["place"] == {"slot": 0, "changed_at": "2027-01-15T08:00:01+00:00"}
    assert shown["change"]["description"] == "It is black."  # type: ignore[index]
    vector = shown["vectors"][version]["vector"]  # type: ignore[index]
    assert (vector["is_current"], vector["dimension"], vector["norm"]) == (True, 16, pytest.approx(1.0, abs=1e-4))
