"""Weights of choices by the types of their events."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tandem.contract.names import EVENT_CODES
from tests.trainer.small_dataset import dataset_of
from trainer.config.train_config import ObjectivesConfig, load_train_config
from trainer.core.errors import ConfigError, DataError
from trainer.dataset.dataset import Dataset, leave_last_out
from trainer.features.objectives import choice_weights, target_weights
from trainer.features.schema import build_schema
from trainer.sources.item_item.fit import fit_item_item
from trainer.training.windows import training_windows

CLICK, PURCHASE = (1 << EVENT_CODES[name] - 1 for name in ("click", "purchase"))
DATA: Dataset = replace(
    dataset_of([[0, 1, 2, 3], [3, 2], [1, 0]], num_items=4),
    pair_types=np.array([CLICK, CLICK | PURCHASE, PURCHASE, CLICK, CLICK, CLICK | PURCHASE, CLICK, CLICK], np.uint8),
)
SALES = ObjectivesConfig(click=1.0, purchase=3.0)


def test_without_objectives_all_choices_count_alike() -> None:
    assert choice_weights(DATA, ObjectivesConfig()) is None
    assert target_weights(DATA, leave_last_out(DATA, skip=0), ObjectivesConfig()) is None


def test_a_choice_counts_as_the_sum_of_its_objectives() -> None:
    weights = choice_weights(DATA, SALES)
    assert weights is not None
    assert weights.mean() == pytest.approx(1.0)
    assert (weights / weights[0]).tolist() == [1, 4, 3, 1, 1, 4, 1, 1]
    of_targets = target_weights(DATA, leave_last_out(DATA, skip=0), SALES)
    assert of_targets is not None
    assert (of_targets / weights[0]).tolist() == [1, 4, 1]


def test_objectives_that_nothing_meets_are_refused() -> None:
    with pytest.raises(DataError, match="no interaction of the data meets an objective: rating, dwell"):
        choice_weights(DATA, ObjectivesConfig(rating=1.0, dwell=2.0))
    bought_first = replace(DATA, pair_types=np.array([PURCHASE, *[CLICK] * 7], np.uint8))
    with pytest.raises(DataError, match="no choice of a validation user meets an objective: purchase"):
        target_weights(bought_first, leave_last_out(bought_first, skip=0), ObjectivesConfig(purchase=1.0))


def test_windows_hold_the_weights_of_their_targets_and_leave_out_what_does_not_count() -> None:
    schema = build_schema(DATA, load_train_config(None, {"towers.history_length": "3"}), text_dim=0)
    weights = choice_weights(DATA, ObjectivesConfig(purchase=1.0))
    windows = training_windows(DATA, schema, DATA.lengths, weights)
    assert windows.target_weights is not None
    assert (windows.target_weights > 0).tolist() == [[True, True, False], [False, False, True]]
    assert windows.user_index.tolist() == [1, 2], "the third user bought nothing"
    assert training_windows(DATA, schema, DATA.lengths).target_weights is None


def test_the_item_item_source_learns_what_counts() -> None:
    config = load_train_config(None, {"item_item.l2": "0.1"}).item_item
    bought = fit_item_item(
        DATA, DATA.lengths, config, choice_weights=choice_weights(DATA, ObjectivesConfig(purchase=1))
    )
    assert bought is not None
    assert (bought.rows >= 0).any(axis=1).tolist() == [False, True, True, False]


def test_a_ranker_that_does_not_know_objectives_is_refused() -> None:
    with pytest.raises(ConfigError, match=r'objectives need ranker\.kind = "blend"'):
        load_train_config(None, {"objectives.purchase": "3", "ranker.kind": "ncf"})
    with pytest.raises(ConfigError, match=r"objectives\.purchases: unknown key"):
        load_train_config(None, {"objectives.purchases": "3"})
