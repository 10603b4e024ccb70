"""Earlier rows stay, new rows come after them, and weights follow their rows."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from tandem.contract.features import FeatureSchema, UserFeature
from tandem.contract.vocabulary import Vocabulary
from tests.trainer.small_dataset import dataset_of, without_items
from trainer.config.train_config import TowersConfig
from trainer.core.errors import ConfigError
from trainer.dataset.dataset import Dataset
from trainer.features.growth import extended_schema, grown_weights, with_earlier_items, with_earlier_users
from trainer.features.schema import MAX_CATEGORIES
from trainer.models.two_tower import TwoTowerModel

SCHEMA = FeatureSchema(
    history_length=4,
    user_features=(UserFeature("town", values=("Bonn", "Ulm")), UserFeature("age", boundaries=(20.0, 40.0))),
    item_categories=("b", "c"),
    max_item_categories=2,
    user_ids=True,
)
TOWERS = TowersConfig(embedding_dim=8, num_layers=1, user_ids=True)


def _renamed(dataset: Dataset, item_ids: list[str]) -> Dataset:
    catalogue = replace(
        dataset.catalogue,
        item_ids=item_ids,
        titles=[f"title of {item_id}" for item_id in item_ids],
        vocabulary=Vocabulary.from_ids(item_ids),
    )
    return replace(dataset, catalogue=catalogue)


def _chosen_ids(dataset: Dataset) -> list[str]:
    return [dataset.catalogue.item_ids[row] for row in dataset.item_rows]


def test_earlier_items_keep_their_rows() -> None:
    earlier = _renamed(dataset_of([[0, 1]], num_items=3), ["pear", "fig", "lost"])
    current = _renamed(dataset_of([[0, 1, 2], [3, 2]], num_items=4), ["apple", "fig", "pear", "plum"])
    current = without_items(current, [1])
    grown = with_earlier_items(current, earlier.catalogue)
    assert list(grown.catalogue.item_ids) == ["pear", "fig", "lost", "apple", "plum"]
    assert grown.catalogue.available.tolist() == [True, False, False, True, True]
    assert list(grown.catalogue.titles) == [f"title of {item_id}" for item_id in grown.catalogue.item_ids]
    assert grown.catalogue.categories == [["even"], ["odd"], ["even"], ["even"], ["odd"]]
    assert _chosen_ids(grown) == _chosen_ids(current)
    assert grown.catalogue.vocabulary.rows(["pear", "plum"]).tolist() == [0, 4]


def test_a_grown_catalogue_keeps_its_rows_when_it_grows_again() -> None:
    first = _renamed(dataset_of([[0]], num_items=2), ["m", "z"])
    second = with_earlier_items(_renamed(dataset_of([[0]], num_items=3), ["a", "m", "z"]), first.catalogue)
    third = with_earlier_items(_renamed(dataset_of([[0]], num_items=3), ["b", "m", "z"]), second.catalogue)
    assert list(third.catalogue.item_ids) == ["m", "z", "a", "b"]
    assert third.catalogue.available.tolist() == [True, True, False, True]


def test_earlier_users_keep_their_rows() -> None:
    dataset = replace(dataset_of([[0, 1], [2], [3, 4, 0]], num_items=5), user_ids=["ann", "bob", "eve"])
    grown = with_earlier_users(dataset, ["eve", "gone", "ann"])
    assert list(grown.user_ids) == ["eve", "gone", "ann", "bob"]
    assert grown.lengths.tolist() == [3, 0, 2, 1]
    assert grown.item_rows.tolist() == [3, 4, 0, 0, 1, 2]
    assert [features.get("age") for features in grown.user_features] == ["22", None, "20", "21"]
    assert grown.event_times.tolist() == [60_000_000 * minute for minute in (1, 2, 3, 1, 2, 1)]


def test_codes_of_the_earlier_schema_mean_the_same() -> None:
    current = replace(
        SCHEMA,
        user_features=(
            UserFeature("age", boundaries=(25.0, 30.0)),
            UserFeature("sex", values=("f", "m")),
            UserFeature("town", values=("Aachen", "Ulm")),
        ),
        item_categories=("a", "c"),
        max_item_categories=1,
    )
    extended = extended_schema(SCHEMA, current)
    assert extended.user_features == (
        UserFeature("town", values=("Bonn", "Ulm", "Aachen")),
        UserFeature("age", boundaries=(20.0, 40.0)),
        UserFeature("sex", values=("f", "m")),
    )
    assert extended.item_categories == ("b", "c", "a")
    assert extended.max_item_categories == 2
    full = replace(SCHEMA, item_categories=tuple(f"category {number}" for number in range(MAX_CATEGORIES)))
    assert extended_schema(full, current).item_categories == full.item_categories


def test_weights_follow_their_rows() -> None:
    torch.manual_seed(0)
    old = TwoTowerModel(TOWERS, SCHEMA, num_items=3, num_users=2)
    torch.nn.init.normal_(old.user_tower.user_embedding.weight)
    schema = extended_schema(SCHEMA, replace(SCHEMA, item_categories=("a", "b", "c"), text_dim=5))
    new = TwoTowerModel(TOWERS, schema, num_items=5, num_users=4)
    before = new.item_tower.text_projection.weight.clone()
    new.load_state_dict(grown_weights(old.state_dict(), new))
    ids, old_ids = new.item_tower.id_embedding.weight, old.item_tower.id_embedding.weight
    assert torch.equal(ids[:4], old_ids)
    assert torch.equal(ids[4:], old_ids[0].expand(2, -1))
    assert torch.equal(new.user_tower.user_embedding.weight[:3], old.user_tower.user_embedding.weight)
    assert not new.user_tower.user_embedding.weight[3:].any()
    assert torch.equal(new.item_tower.category_embedding.weight[:3], old.item_tower.category_embedding.weight)
    assert not new.item_tower.category_embedding.weight[3:].any()
    assert torch.equal(new.item_tower.text_projection.weight, before)


def test_vectors_of_earlier_items_are_the_same_after_growth() -> None:
    torch.manual_seed(0)
    old = TwoTowerModel(TOWERS, SCHEMA, num_items=3, num_users=2).eval()
    new = TwoTowerModel(TOWERS, SCHEMA, num_items=4, num_users=2).eval()
    new.load_state_dict(grown_weights(old.state_dict(), new))
    codes = torch.tensor([[1, 0], [2, 1], [0, 0]])
    index = torch.arange(1, 4)
    assert torch.equal(new.item_tower(index, category_codes=codes), old.item_tower(index, category_codes=codes))
    unseen = torch.tensor([0])
    assert torch.equal(
        new.item_tower(torch.tensor([4]), category_codes=codes[:1]), old.item_tower(unseen, category_codes=codes[:1])
    )


def test_another_width_is_refused() -> None:
    old = TwoTowerModel(TOWERS, SCHEMA, num_items=3, num_users=2)
    wider = TwoTowerModel(TOWERS.model_copy(update={"embedding_dim": 16}), SCHEMA, num_items=3, num_users=2)
    with pytest.raises(ConfigError, match=r"warm start: .* is \(4, 8\), this configuration has \(4, 16\)"):
        grown_weights(old.state_dict(), wider)


def test_fewer_rows_are_refused() -> None:
    old = TwoTowerModel(TOWERS, SCHEMA, num_items=3, num_users=2)
    with pytest.raises(ConfigError, match="warm start"):
        grown_weights(old.state_dict(), TwoTowerModel(TOWERS, SCHEMA, num_items=2, num_users=2))
