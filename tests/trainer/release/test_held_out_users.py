"""Held-out users of the gate."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tests.support.tiny_bundle import TinySpec, build_tiny_bundle
from tests.trainer.small_dataset import dataset_of
from trainer.core.errors import DataError
from trainer.release.held_out_users import sample_of_bundle, sample_of_dataset


def test_each_users_last_item_is_held_out_with_the_state_before_it() -> None:
    dataset = dataset_of([[0, 1, 2], [3], [4, 5]], num_items=6)
    sample = sample_of_dataset(dataset, max_users=10, name="small")
    assert [(user.user_id, user.target_item_id) for user in sample.users] == [("u0", "i2"), ("u2", "i5")]
    assert sample.users[0].state.event_item_keys.tolist() == dataset.catalogue.vocabulary.keys[[0, 1]].tolist()
    assert sample.users[0].state.features == {"age": "20"}
    assert (sample.origin, sample.num_interactions) == ("last interactions in small", 6)


def test_a_sample_is_bounded_and_the_same_every_time() -> None:
    dataset = dataset_of([[user % 5, 5 + user % 4] for user in range(50)], num_items=9)
    first, second = (sample_of_dataset(dataset, max_users=7, name="small") for _ in range(2))
    assert len(first.users) == 7
    assert [user.user_id for user in first.users] == [user.user_id for user in second.users]


def test_unavailable_items_are_not_held_out() -> None:
    dataset = dataset_of([[0, 1], [0, 2], [1, 2, 3]], num_items=4)
    available = np.array([True, True, False, True])
    dataset = replace(dataset, catalogue=replace(dataset.catalogue, available=available))
    sample = sample_of_dataset(dataset, max_users=10, name="small")
    assert [user.target_item_id for user in sample.users] == ["i1", "i3"]


def test_data_without_held_out_users_is_named() -> None:
    with pytest.raises(DataError, match="small: no user has two interactions"):
        sample_of_dataset(dataset_of([[0], [1]], num_items=2), max_users=10, name="small")


def test_the_users_of_a_bundle(tmp_path) -> None:
    bundle = build_tiny_bundle(tmp_path / "bundle", TinySpec())
    sample = sample_of_bundle(bundle.directory, max_users=2)
    assert [user.user_id for user in sample.users] == ["held-out-0", "held-out-1"]
    assert sample.num_interactions == bundle.manifest.training_data.num_interactions
    with pytest.raises(DataError, match=r"cannot be read: manifest\.json"):
        sample_of_bundle(tmp_path / "nowhere", max_users=2)
