from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest

from tandem.contract.vocabulary import MISSING_ROW
from tests.trainer.known_answers import Table, split_of
from trainer.evaluation.list_quality import coverage, diversity, gini, novelty
from trainer.evaluation.segments import HEAD_ITEMS, TAIL_ITEMS, USER_SEGMENTS, head_items, user_segments
from trainer.scoring.full_evaluation import evaluate, question_digest


class RatedTable(Table):
    """Predicts the scores as ratings."""

    def ratings(self, users: npt.NDArray[np.int64], items: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        return self.table[users, items]


def test_an_evaluation_holds_every_metric() -> None:
    split = split_of([[0], [1, 0], []], {0: [2, 3], 1: [3], 2: [0]}, num_items=5)
    table = [[0, 1, 5, 2, 3], [0, 0, 1, 2, 3], [5, 4, 3, 2, 1]]
    evaluation = evaluate(split, Table(table), name="table", content_vectors=np.eye(5, dtype=np.float16))
    means = evaluation.means()
    assert means["recall@5"] == means["diversity@10"] == means["coverage@10"] == 1.0
    assert evaluation.per_user["mrr@10"] == pytest.approx([1, 1 / 2, 1])
    assert evaluation.per_user["map@10"] == pytest.approx([(1 + 2 / 3) / 2, 1 / 2, 1])
    assert (evaluation.num_users, evaluation.protocol, evaluation.split) == (3, "full ranking", "test")
    assert "rmse" not in means
    assert "diversity@10" not in evaluate(split, Table(table), name="table").means()


def test_rating_errors_count_rated_targets_only() -> None:
    split = replace(
        split_of([[0], []], {0: [1, 2], 1: [0]}, num_items=3),
        target_ratings=np.array([3.0, np.nan, 5.0], dtype=np.float32),
    )
    means = evaluate(split, RatedTable([[0, 4, 0], [2, 0, 0]]), name="table").means()
    assert means["rmse"] == pytest.approx(np.sqrt((1 + 9) / 2))
    assert means["mae"] == pytest.approx(2.0)
    unrated = split_of([[0], []], {0: [1, 2], 1: [0]}, num_items=3)
    assert "rmse" not in evaluate(unrated, RatedTable(np.zeros((2, 3))), name="table").means()


def test_segments_partition_users_and_targets() -> None:
    assert user_segments(np.array([0, 5, 6, 49, 50])).tolist() == [0, 0, 1, 1, 2]
    assert head_items(np.array([1, 9, 2, 9, 0, 0])).tolist() == [False, True, False, True, False, False]
    assert head_items(np.zeros(4, dtype=np.int64)).tolist() == [False] * 4
    # Item 0 is the head of ten items; user 0 has a head and a tail target, user 1 has only a tail target.
    known = [[3], list(range(1, 8)), [0], [0]]
    split = split_of(known, {0: [0, 5], 1: [9]}, num_items=10)
    evaluation = evaluate(split, Table(np.tile(np.arange(10), (4, 1))), name="table")
    segments = evaluation.segments()
    assert list(segments) == [name for name in (*USER_SEGMENTS, HEAD_ITEMS, TAIL_ITEMS) if name != "heavy users"]
    assert segments["cold users"]["recall@10"].tolist() == [1.0]
    assert segments["warm users"]["mrr@10"].tolist() == [1.0]
    assert segments["head items"]["mrr@10"].tolist() == [1 / 9]  # item 0 comes last of nine candidates
    assert segments["tail items"]["mrr@10"] == pytest.approx([1 / 5, 1.0])


def test_lists_by_hand() -> None:
    lists = np.array([[0, 1], [0, 2], [0, MISSING_ROW]])
    assert coverage(lists, 4) == 3 / 4
    assert gini(lists, 4) == pytest.approx((-3 * 0 + -1 * 1 + 1 * 1 + 3 * 3) / (4 * 5))
    assert gini(np.array([[0, 1], [2, 3]]), 4) == 0.0
    assert gini(np.full((2, 2), MISSING_ROW), 4) == 0.0
    bits = novelty(lists, np.array([4, 2, 0, 8]), 8)
    assert bits == pytest.approx([(1 + 2) / 2, (1 + 3) / 2, 1])


def test_diversity_is_one_minus_the_mean_cosine_of_pairs() -> None:
    vectors = np.random.default_rng(5).normal(size=(6, 3)).astype(np.float32)
    vectors[5] = 0
    lists = np.array([[0, 1, 2, 3], [4, 0, 5, MISSING_ROW], [1, MISSING_ROW, MISSING_ROW, MISSING_ROW]])
    unit = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-9)
    first = [unit[a] @ unit[b] for a in range(4) for b in range(a)]
    second = [unit[4] @ unit[0], 0.0, 0.0]
    assert diversity(lists, vectors) == pytest.approx([1 - np.mean(first), 1 - np.mean(second), 0.0], abs=1e-6)


def test_the_question_digest_differs_with_data_and_targets() -> None:
    split = split_of([[0], [1]], {0: [2], 1: [0]}, num_items=4)
    assert question_digest(split) == question_digest(split_of([[0], [1]], {0: [2], 1: [0]}, num_items=4))
    different = [
        split_of([[0], [1]], {0: [3], 1: [0]}, num_items=4),
        split_of([[0], [2]], {0: [2], 1: [0]}, num_items=4),
        split_of([[0], [1]], {0: [2]}, num_items=4),
        split_of([[0], [1]], {0: [2], 1: [0]}, num_items=5),
    ]
    assert len({question_digest(split), *map(question_digest, different)}) == 5
