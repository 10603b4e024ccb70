"""Windows hold the same inputs as serving makes of the same states."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from tandem.contract.features import (
    HISTORY_FEATURES,
    FeatureSchema,
    UserFeature,
    encode_histories,
    encode_user_feature_codes,
)
from tandem.contract.vocabulary import MISSING_ROW
from tests.trainer.small_dataset import dataset_of
from trainer.training.windows import training_windows


def test_windows_pair_every_event_with_its_successor() -> None:
    dataset = dataset_of([[0, 1, 2, 3, 4], [5, 6], [7]], num_items=8)
    windows = training_windows(dataset, FeatureSchema(history_length=3), np.array([5, 2, 1]))
    missing = MISSING_ROW
    assert windows.history_rows.tolist() == [[1, 2, 3], [missing, missing, 0], [missing, missing, 5]]
    assert windows.target_rows.tolist() == [[2, 3, 4], [missing, missing, 1], [missing, missing, 6]]
    assert windows.ages[0].tolist() == [120.0, 60.0, 0.0]
    assert windows.user_index.tolist() == [1, 1, 2]


def test_windows_equal_the_inputs_of_serving_at_every_event() -> None:
    generator = np.random.default_rng(0)
    lengths = [0, 1, 2, 3, 7, 8, 40, 230]
    dataset = dataset_of([generator.integers(0, 50, length).tolist() for length in lengths], num_items=50)
    gaps = generator.exponential(3e12, len(dataset.item_rows)).astype(np.int64)
    times = np.cumsum(gaps) * (generator.random(len(gaps)) < 0.9)
    dataset = replace(dataset, event_times=times, event_codes=generator.integers(1, 7, len(gaps)).astype(np.uint8))
    schema = FeatureSchema(
        history_length=7, user_features=(UserFeature("age", boundaries=(22.0, 25.0)), *HISTORY_FEATURES)
    )
    windows = training_windows(dataset, schema, dataset.lengths)
    users = windows.user_index.numpy() - 1
    assert np.bincount(users, minlength=8).tolist() == [0, 0, 1, 1, 1, 1, 6, 33]
    ends = dict.fromkeys(range(8), 0)
    for window, user in enumerate(users.tolist()):
        end = lengths[user] - 1 - ends[user]
        ends[user] += 7
        count = int(windows.lengths[window])
        history = encode_histories([dataset.user_state(user, end)], dataset.catalogue.vocabulary, 7)
        assert count == min(end, 7)
        assert windows.history_rows[window].tolist() == history.rows[0].tolist()
        assert windows.event_codes[window].tolist() == history.event_codes[0].tolist()
        assert windows.ages[window].tolist() == history.ages[0].tolist()
        first = int(dataset.offsets[user]) + end - count
        assert (
            windows.target_rows[window, -count:].tolist() == dataset.item_rows[first + 1 : first + 1 + count].tolist()
        )
        states = [dataset.user_state(user, end - back) for back in reversed(range(count))]
        served = encode_user_feature_codes(states, schema)
        assert windows.feature_codes[window, -count:].tolist() == served.tolist()


def test_features_of_the_data_are_stored_once_for_each_window() -> None:
    dataset = dataset_of([[0, 1, 2, 3], [1, 2]], num_items=4)
    schema = FeatureSchema(history_length=2, user_features=(UserFeature("age", boundaries=(21.0,)),))
    assert training_windows(dataset, schema, dataset.lengths).feature_codes.tolist() == [[1], [1], [2]]
    assert training_windows(dataset, FeatureSchema(history_length=2), dataset.lengths).feature_codes.shape == (3, 0)
