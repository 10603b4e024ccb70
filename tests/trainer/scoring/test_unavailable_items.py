"""Unavailable items are learned from and read as history, but never recommended."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from tandem.contract import names
from tandem.contract.features import FeatureSchema
from tandem.contract.vocabulary import MISSING_ROW
from tests.trainer.known_answers import Table, split_of
from tests.trainer.small_dataset import dataset_of, without_items
from trainer.dataset.dataset import HoldOut, leave_last_out
from trainer.dataset.eval_split import leave_last_out_split
from trainer.export.bundle import item_table, top_items
from trainer.scoring.candidate_ranking import candidates_of
from trainer.scoring.full_ranking import rank_split
from trainer.scoring.ranks_by_model import popularity_ranks, ranks_of_targets
from trainer.scoring.sampled_evaluation import evaluate_sampled, sampled_items
from trainer.scoring.scoring_model import ScoringModel
from trainer.sources.content.source import CONTENT, FittedContent


def test_they_are_in_no_list_and_rank_last_as_targets() -> None:
    split = split_of([[0], [0]], {0: [1, 3, 4], 1: [2]}, num_items=6)
    split = replace(split, known=without_items(split.known, [3, 4]))
    ranking = rank_split(split, Table([[9, 5, 4, 8, 7, 6], [9, 5, 4, 8, 7, 6]]))
    assert ranking.top_rows[0, :4].tolist() == [5, 1, 2, MISSING_ROW]
    assert ranking.ranks.tolist() == [1, 3, 4, 2]


def test_as_held_out_items_they_are_a_miss() -> None:
    dataset = without_items(dataset_of([[0, 1], [0, 2], [0, 3]], num_items=5), [1])
    scores = np.array([[9, 8, 7, 6, 5]] * 3, dtype=np.float32)
    (ranks,) = ranks_of_targets(dataset, leave_last_out(dataset, skip=0), lambda users: [scores[users]])
    assert ranks[0] >= 3  # after the three available items that are not history
    assert ranks[1:].tolist() == [0, 1]


def test_popularity_does_not_rank_them() -> None:
    dataset = without_items(dataset_of([[0, 1, 3], [1, 2, 3], [1, 2, 4], [1, 2, 0]], num_items=5), [1, 2])
    hold_out = HoldOut(dataset.lengths - 1, np.array([0, 1]), np.array([3, 3]))
    assert popularity_ranks(dataset, hold_out).max() <= 2  # of five items, two are unavailable and one was chosen


def test_they_are_not_sampled() -> None:
    dataset = without_items(dataset_of([[0, 1, 2, 3], [4, 5, 6, 1]], num_items=8), [2, 5])
    split = leave_last_out_split(dataset, skip=0)
    samples = sampled_items(split, dataset)
    assert set(samples[0].tolist()) == {4, 6, MISSING_ROW}
    assert set(samples[1].tolist()) == {0, 3, MISSING_ROW}
    asked = replace(split, target_rows=np.array([2, 1]), known=dataset.first_events(dataset.lengths - 2))
    evaluation = evaluate_sampled(asked, Table(np.ones((2, 8))), dataset, name="all alike")
    assert evaluation.ranks[0] == 2  # after both sampled items


def test_they_are_no_candidates_of_a_ranker() -> None:
    dataset = dataset_of([[0, 1]], num_items=6)
    neighbours = np.array([[5, 4]] * 6, dtype=np.int32)
    model = ScoringModel(
        schema=FeatureSchema(history_length=4),
        item_vocabulary=dataset.catalogue.vocabulary,
        user_vocabulary=None,
        item_vectors=np.eye(6, dtype=np.float32),
        user_vectors=lambda _: np.ones((1, 6), dtype=np.float32),
        sources={CONTENT.name: FittedContent(np.zeros((6, 1), np.float16), 2, neighbours)},
        unavailable_rows=np.array([3, 5]),
    )
    found = candidates_of(model, ["u0"], [dataset.user_state(0, 2)])
    assert sorted(found.rows[found.present].tolist()) == [2, 4]


def test_they_are_in_no_top_list_of_a_bundle() -> None:
    dataset = without_items(dataset_of([[0, 1, 2], [0, 1]], num_items=4), [0, 3])
    popularity = dataset.popularity(dataset.lengths)
    items = item_table(dataset.catalogue, popularity)
    assert items.unavailable_rows.tolist() == [0, 3]
    lists = top_items(items, popularity)
    assert lists[names.SEGMENT_ALL].tolist() == [1, 2]
    assert {name: rows.tolist() for name, rows in lists.items() if name != names.SEGMENT_ALL} == {
        f"{names.CATEGORY_SEGMENT}even": [2],
        f"{names.CATEGORY_SEGMENT}odd": [1],
    }
