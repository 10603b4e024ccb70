"""The contract of a baseline, tested for every baseline on data with a known answer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from tests.support.checkerboard import write_checkerboard
from trainer.baselines.all_baselines import all_baselines
from trainer.baselines.baseline import Baseline
from trainer.baselines.popularity import Popularity
from trainer.baselines.rating_svd import RatingSVD
from trainer.data.config import load_data_config
from trainer.data.prepare import prepare
from trainer.dataset.dataset import Dataset, load_dataset
from trainer.dataset.eval_split import EvalSplit, leave_last_out_split

NAMES = [
    "Popularity",
    "ItemKNN",
    "ItemKNN+recency",
    "EASE",
    "EASE+recency",
    "iALS",
    "iALS+recency",
    "SVD of ratings",
    "Text embeddings",
    "Text embeddings+recency",
    "TF-IDF",
    "TF-IDF+recency",
    "Hybrid EASE+recency, TF-IDF+recency",
    "Hybrid EASE+recency, iALS+recency, TF-IDF+recency",
]
NEW_USER = 5
"""A user without events in the split."""


def colours(dataset: Dataset) -> np.ndarray:
    """(items,) int64, 0 or 1."""
    return np.array([names == ["black"] for names in dataset.catalogue.categories], dtype=np.int64)


@pytest.fixture(scope="module")
def split(tmp_path_factory) -> EvalSplit:
    """The checkerboard's last events as targets. All earlier events but NEW_USER's are known, and all are rated 5."""
    folder = tmp_path_factory.mktemp("checkerboard")
    prepared = prepare(load_data_config(str(write_checkerboard(folder)), {}), folder)
    dataset = load_dataset(prepared.directory)
    split = leave_last_out_split(replace(dataset, ratings=np.full(len(dataset.item_rows), 5, np.float32)), skip=0)
    return replace(split, known=split.known.subset(split.known.user_rows != NEW_USER))


@pytest.fixture(scope="module")
def create(split: EvalSplit) -> Callable[[str], Baseline]:
    """Makes a baseline by name; the text embeddings distinguish the two colours."""
    embeddings = np.eye(2, dtype=np.float32)[colours(split.known)]
    return lambda name: {baseline.name: baseline for baseline in all_baselines(split.known, embeddings)}[name]


def test_the_catalogue_is_complete(split: EvalSplit) -> None:
    embeddings = np.eye(2, dtype=np.float32)[colours(split.known)]
    assert [baseline.name for baseline in all_baselines(split.known, embeddings)] == NAMES


def test_baselines_that_the_data_do_not_allow_are_left_out(split: EvalSplit) -> None:
    empty = replace(split.known.catalogue, titles=[""] * 24, descriptions=[""] * 24, categories=[[]] * 24)
    known = replace(split.known, catalogue=empty, ratings=np.full(len(split.known.ratings), np.nan, np.float32))
    names = [baseline.name for baseline in all_baselines(known, np.zeros((24, 0), np.float32))]
    assert names == NAMES[:7]


@pytest.mark.parametrize("name", NAMES)
class TestBaseline:
    def test_it_scores_all_items_for_the_given_users(self, name, create, split) -> None:
        scorer = create(name).fit(split.known)
        users = np.array([7, 0, 30, NEW_USER])
        scores = scorer.scores(users)
        assert scores.shape == (4, 24)
        assert scores.dtype == np.float32
        assert np.isfinite(scores).all()
        assert scorer.scores(users[1:2])[0] == pytest.approx(scores[1], abs=1e-5)
        assert scorer.scores(users[:0]).shape == (0, 24)

    def test_it_finds_the_withheld_items(self, name, create, split) -> None:
        baseline = create(name)
        if isinstance(baseline, (Popularity, RatingSVD)):
            pytest.skip("popularity knows no users, and ratings that are all equal tell nothing")
        users = np.delete(split.users, NEW_USER)
        scores = baseline.fit(split.known).scores(users)
        for row, user in enumerate(users):
            scores[row, split.known.item_rows[split.known.user_rows == user]] = -np.inf
        assert scores.argmax(axis=1).tolist() == split.target_rows[users].tolist()

    def test_two_fits_score_alike(self, name, create, split) -> None:
        users = np.arange(60)
        first, second = (create(name).fit(split.known).scores(users) for _ in range(2))
        np.testing.assert_array_equal(first, second)

    def test_the_caller_may_overwrite_the_scores(self, name, create, split) -> None:
        scorer = create(name).fit(split.known)
        users = np.array([3, NEW_USER])
        scores = scorer.scores(users)
        expected = scores.copy()
        scores[:] = np.nan
        np.testing.assert_array_equal(scorer.scores(users), expected)

    def test_a_user_without_history_gets_popular_items(self, name, create, split) -> None:
        (scores,) = create(name).fit(split.known).scores(np.array([NEW_USER]))
        if isinstance(create(name), RatingSVD):
            assert np.ptp(scores) < 0.5  # the average rating, plus the bias of the item
        else:
            order = np.argsort(-split.known.popularity(split.known.lengths), kind="stable")
            assert np.argsort(-scores, kind="stable").tolist() == order.tolist()

    def test_it_does_not_change_the_data(self, name, create, split) -> None:
        rows, ratings = split.known.item_rows.copy(), split.known.ratings.copy()
        create(name).fit(split.known).scores(np.arange(60))
        np.testing.assert_array_equal(split.known.item_rows, rows)
        np.testing.assert_array_equal(split.known.ratings, ratings)
