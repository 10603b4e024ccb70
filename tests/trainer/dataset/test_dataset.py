from dataclasses import replace

import numpy as np

from tandem.contract.vocabulary import MISSING_ROW, id_keys
from tests.trainer.small_dataset import dataset_of
from trainer.dataset.dataset import LowRated, leave_last_out
from trainer.features.growth import with_earlier_users
from trainer.scoring.ranks_by_model import popularity_ranks, ranks_of_targets


def test_leave_last_out_splits_each_user_by_order() -> None:
    dataset = dataset_of([[0, 1, 2], [3], [4, 0]], num_items=5)
    test = leave_last_out(dataset, skip=0)
    assert test.users.tolist() == [0, 2]
    assert test.target_rows.tolist() == [2, 0]
    assert test.num_history_events.tolist() == [2, 1, 1]  # a user with one interaction is trained on, not tested
    validation = leave_last_out(dataset, skip=1)
    assert validation.users.tolist() == [0]
    assert validation.target_rows.tolist() == [1]
    assert validation.num_history_events.tolist() == [1, 1, 0]


def test_popularity_counts_training_events_only() -> None:
    dataset = dataset_of([[0, 1, 2], [0, 2], [0]], num_items=4)
    assert dataset.popularity(np.array([2, 1, 1])).tolist() == [3, 1, 0, 0]


def test_user_state_is_that_of_the_store() -> None:
    dataset = dataset_of([[0, 1, 2]], num_items=3)
    state = dataset.user_state(0, 2)
    assert dataset.catalogue.vocabulary.rows_of_keys(state.event_item_keys).tolist() == [0, 1]
    assert state.event_times.tolist() == [60_000_000, 120_000_000]
    assert state.features == {"age": "20"}


LOW_RATED = LowRated(
    user_rows=np.array([0, 0, 0, 1]),
    item_keys=id_keys(["i3", "i4", "i9", "i0"]),  # the catalogue lacks i9
    num_events_before=np.array([0, 2, 2, 1]),
)


def test_what_was_rated_low_before_a_choice_is_seen_and_no_history() -> None:
    dataset = replace(dataset_of([[0, 1, 2], [3]], num_items=6), low_rated=LOW_RATED)
    vocabulary = dataset.catalogue.vocabulary
    for num_events, seen in ((1, {0, 3}), (2, {0, 1, 3, 4}), (3, {0, 1, 2, 3, 4})):
        assert set(dataset.seen_rows(0, num_events).tolist()) == seen
        state = dataset.user_state(0, num_events)
        assert len(state.event_item_keys) == num_events
        assert set(vocabulary.rows_of_keys(state.seen_item_keys).tolist()) - {MISSING_ROW} == seen


def test_a_part_of_the_data_holds_no_low_rating_of_the_future() -> None:
    dataset = replace(dataset_of([[0, 1, 2], [3]], num_items=6), low_rated=LOW_RATED)
    first = dataset.first_events(np.array([1, 0]))
    assert (first.low_rated.user_rows.tolist(), first.low_rated.num_events_before.tolist()) == ([0], [0])
    without_the_first = dataset.subset(np.array([False, True, True, True]))
    assert without_the_first.low_rated.num_events_before.tolist() == [0, 1, 1, 1]
    assert dataset.subset(np.zeros(4, dtype=np.bool_)).low_rated.num_events_before.tolist() == [0]


def test_low_ratings_follow_users_to_their_earlier_rows() -> None:
    dataset = replace(dataset_of([[0, 1, 2], [3]], num_items=6), low_rated=LOW_RATED)
    grown = with_earlier_users(dataset, ["gone", "u1"])
    assert list(grown.user_ids) == ["gone", "u1", "u0"]
    assert grown.low_rated.user_rows.tolist() == [1, 2, 2, 2]
    assert set(grown.seen_rows(2, 3).tolist()) == set(dataset.seen_rows(0, 3).tolist())


def test_ranks_leave_out_what_was_rated_low() -> None:
    dataset = replace(dataset_of([[0, 1, 2], [3]], num_items=6), low_rated=LOW_RATED)
    scores = np.array([9, 9, 5, 7, 6, 1], dtype=np.float32)  # 0 and 1 are history, 3 and 4 were rated low before 2
    (ranks,) = ranks_of_targets(
        dataset, leave_last_out(dataset, skip=0), lambda users: [np.tile(scores, (len(users), 1))]
    )
    assert ranks.tolist() == [0]


def test_ranks_leave_out_history_and_break_ties_without_favour() -> None:
    dataset = dataset_of([[0, 1, 2]] * 400, num_items=6)
    hold_out = leave_last_out(dataset, skip=0)
    scores = np.array([9, 9, 5, 7, 5, 1], dtype=np.float32)  # rows 0 and 1 are history; row 4 ties with the target
    ranks = ranks_of_targets(dataset, hold_out, lambda users: [np.tile(scores, (len(users), 1))])[0]
    assert set(ranks.tolist()) == {1, 2}
    assert 0.4 < (ranks == 1).mean() < 0.6


def test_popularity_ranks_by_training_counts() -> None:
    dataset = dataset_of([[0, 1, 2], [2, 3, 0], [2, 0, 1]], num_items=4)
    ranks = popularity_ranks(dataset, leave_last_out(dataset, skip=0))
    assert ranks[0] == 0  # item 2 is in two other histories, item 3 in one
