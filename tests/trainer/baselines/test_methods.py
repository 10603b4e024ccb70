"""Each method against its definition, by hand or by a plain formula on small data."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tests.trainer.small_dataset import dataset_of
from trainer.baselines.content import Content, DenseContent
from trainer.baselines.ease import Ease
from trainer.baselines.histories import FitOnce, WithRecency
from trainer.baselines.hybrid import Hybrid, HybridScorer
from trainer.baselines.item_knn import ItemKNN
from trainer.baselines.popularity import Popularity, PopularityScorer
from trainer.baselines.rating_svd import RatingSVD
from trainer.core.errors import DataError
from trainer.features.interaction_matrix import interaction_matrix


def random_dataset(num_users=40, num_items=12, seed=0):
    generator = np.random.default_rng(seed)
    return dataset_of(
        [generator.permutation(num_items - 1)[: 3 + user % 5] for user in range(num_users)], num_items=num_items
    )


def test_ease_is_its_closed_form() -> None:
    dataset = random_dataset()
    matrix = interaction_matrix(dataset).toarray().astype(np.float64)
    inverse = np.linalg.inv(matrix.T @ matrix + 7.0 * np.eye(12))
    weights = -inverse / np.diag(inverse)
    np.fill_diagonal(weights, 0.0)
    scores = Ease(l2=7.0).fit(dataset).scores(np.arange(40))
    assert scores == pytest.approx(matrix @ weights, abs=1e-5)
    assert not scores[:, 11].any()  # no user chose it


def test_item_knn_is_shrunk_cosine_over_the_nearest() -> None:
    dataset = dataset_of([[0, 1], [0, 1], [0, 2], [3]], num_items=4)
    cosine_01, cosine_02 = 2 / (np.sqrt(3 * 2) + 10), 1 / (np.sqrt(3 * 1) + 10)
    knn = ItemKNN(shrinkage=10.0)
    assert knn.fit(dataset).scores(np.array([0]))[0] == pytest.approx([cosine_01, cosine_01, cosine_02, 0], abs=1e-6)
    nearest = ItemKNN(shrinkage=10.0, num_neighbours=1).fit(dataset)
    assert nearest.scores(np.array([0]))[0] == pytest.approx([cosine_01, cosine_01, 0, 0], abs=1e-6)


def test_recency_weights_the_history_when_scoring_and_only_then() -> None:
    dataset = random_dataset()
    plain, recent = Ease().fit(dataset), WithRecency(Ease(), 2.0).fit(dataset)
    weighted = interaction_matrix(dataset, recency_tau=2.0)
    assert recent.scores(np.arange(40)) == pytest.approx(plain.model.history_scores(weighted), abs=1e-6)


def test_a_shared_baseline_is_fitted_once_for_each_data_set() -> None:
    dataset, other = random_dataset(), random_dataset(seed=1)
    shared = FitOnce(Ease())
    first = shared.fit(dataset)
    assert shared.fit(dataset) is first
    assert shared.fit(other).known is other
    np.testing.assert_array_equal(shared.fit(dataset).scores(np.arange(4)), first.scores(np.arange(4)))


def test_content_by_faiss_is_the_product_with_the_history() -> None:
    dataset = random_dataset()
    vectors = np.random.default_rng(0).normal(size=(12, 5)).astype(np.float32)
    histories = interaction_matrix(dataset)
    expected = histories.toarray() @ vectors @ vectors.T
    dense = Content(name="dense", similarities=DenseContent(vectors)).fit(dataset).scores(np.arange(40))
    assert dense == pytest.approx(expected, abs=1e-4)


def test_hybrid_adds_scores_of_equal_spread() -> None:
    small, large = np.array([1, 2, 3, 4], np.float32), np.array([400, 100, 200, 300], np.float32)
    scorer = HybridScorer([(PopularityScorer(small), 1.0), (PopularityScorer(large), 0.5)])
    expected = (small - 2.5) / small.std() + 0.5 * (large - 250) / large.std()
    assert scorer.scores(np.array([0]))[0] == pytest.approx(expected, abs=1e-5)
    constant = HybridScorer([(PopularityScorer(np.full(4, 7, np.float32)), 1.0)])
    assert constant.scores(np.array([0]))[0].tolist() == [0, 0, 0, 0]


def test_a_hybrid_with_a_single_part_ranks_as_the_part() -> None:
    dataset = random_dataset()
    alone = Popularity().fit(dataset).scores(np.arange(3))
    hybrid = Hybrid(parts=((Popularity(), 2.0),)).fit(dataset).scores(np.arange(3))
    np.testing.assert_array_equal(np.argsort(-hybrid, kind="stable"), np.argsort(-alone, kind="stable"))


def rated_board():
    """Users rate items of their own colour 5 and all other items 1; half of all pairs are known."""
    generator = np.random.default_rng(0)
    histories = [generator.permutation(20)[:10] for _ in range(60)]
    dataset = dataset_of(histories, num_items=20)
    own = dataset.user_rows % 2 == dataset.item_rows % 2
    return replace(dataset, ratings=np.where(own, 5.0, 1.0).astype(np.float32))


def test_svd_learns_ratings_of_pairs_it_has_not_seen() -> None:
    dataset = rated_board()
    scorer = RatingSVD(num_factors=4, num_epochs=300, learning_rate=0.02, regularization=0.02).fit(dataset)
    users, items = (rows.ravel() for rows in np.meshgrid(np.arange(60), np.arange(20), indexing="ij"))
    unseen = interaction_matrix(dataset).toarray().ravel() == 0
    predicted = scorer.ratings(users[unseen], items[unseen])
    assert predicted.dtype == np.float32
    expected = np.where(users[unseen] % 2 == items[unseen] % 2, 5.0, 1.0)
    assert np.sqrt(np.mean((predicted - expected) ** 2)) < 0.5
    assert predicted.min() >= 1.0
    assert predicted.max() <= 5.0
    own = scorer.scores(np.array([0]))[0]
    assert own[0::2].min() > own[1::2].max()


def test_svd_predicts_the_mean_for_an_unknown_user_and_item() -> None:
    dataset = rated_board()
    known = dataset.subset((dataset.user_rows != 3) & (dataset.item_rows != 4))
    scorer = RatingSVD(num_factors=4).fit(known)
    assert scorer.ratings(np.array([3]), np.array([4]))[0] == pytest.approx(known.ratings.mean(), abs=1e-5)


def test_svd_says_that_it_needs_ratings() -> None:
    with pytest.raises(DataError, match="no ratings"):
        RatingSVD().fit(random_dataset())
