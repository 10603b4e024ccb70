"""What the next training continues, without users who were deleted."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tandem.contract.deleted_users import DeletedUsers, user_sha256
from tandem.contract.features import FeatureSchema
from tandem.contract.vocabulary import Vocabulary
from trainer.config.train_config import TextConfig, TowersConfig
from trainer.dataset.dataset import Catalogue
from trainer.training.previous_model import PreviousModel

USER_IDS = "user_tower.user_embedding.weight"


@pytest.fixture
def previous() -> PreviousModel:
    catalogue = Catalogue(
        item_ids=[],
        titles=[],
        descriptions=[],
        categories=[],
        attributes=[],
        vocabulary=Vocabulary.from_ids([]),
        available=np.empty(0, dtype=np.bool_),
    )
    return PreviousModel(
        towers=TowersConfig(),
        text=TextConfig(),
        schema=FeatureSchema(history_length=1),
        catalogue=catalogue,
        user_ids=["ann", "bob", "cat"],
        num_learned_events=np.array([3, 4, 5]),
        weights={USER_IDS: torch.arange(8.0).reshape(4, 2) + 1},
    )


def test_a_deleted_user_is_nobody_in_the_same_row_and_has_taught_nothing(previous: PreviousModel) -> None:
    forgetting = previous.forgetting(DeletedUsers({user_sha256("bob"): 1, user_sha256("stranger"): 1}))
    assert forgetting.user_ids == ["ann", "deleted user of row 1", "cat"]
    assert forgetting.num_learned_events.tolist() == [3, 0, 5]
    # Row 0 of the embedding stands for unknown users.
    assert forgetting.weights[USER_IDS].tolist() == [[1, 2], [3, 4], [0, 0], [7, 8]]
    assert previous.weights[USER_IDS].tolist()[2] == [5, 6]
    assert previous.user_ids[1] == "bob"


def test_without_deleted_users_nothing_changes(previous: PreviousModel) -> None:
    assert previous.forgetting(DeletedUsers({user_sha256("stranger"): 1})) is previous
