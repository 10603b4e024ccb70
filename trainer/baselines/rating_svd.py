"""Matrix factorisation of ratings with biases ("SVD" of the Netflix prize; Koren et al., IEEE Computer 2009).

The only module that imports scikit-surprise. It learns to predict ratings, which RMSE and MAE measure, not which items
a user will choose, so its rankings are weak.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from trainer.core.errors import DataError
from trainer.dataset.dataset import Dataset


@dataclass(frozen=True, kw_only=True)
class RatingSVD:
    """Rating = mean + bias of the user + bias of the item + product of their vectors; by gradient descent."""

    name: str = "SVD of ratings"
    num_factors: int = 100
    """Width of user and item vectors."""
    num_epochs: int = 40
    """Passes over all ratings."""
    learning_rate: float = 0.01
    """Step of gradient descent."""
    regularization: float = 0.1
    """L2 penalty of biases and vectors."""
    seed: int = 0
    """Seed of the initial vectors."""

    def fit(self, known: Dataset) -> RatingScorer:
        """Learns from the events that have a rating. Raises DataError if no event has a rating."""
        # The import takes a second.
        from surprise import SVD, Trainset

        rated = ~np.isnan(known.ratings)
        if not rated.any():
            raise DataError(f"{self.name}: the data have no ratings")
        users, items, ratings = known.user_rows[rated], known.item_rows[rated], known.ratings[rated]
        num_users, num_items = len(known.user_ids), len(known.catalogue)
        by_user, by_item = defaultdict(list), defaultdict(list)
        for user, item, rating in zip(users.tolist(), items.tolist(), ratings.tolist(), strict=True):
            by_user[user].append((item, rating))
            by_item[item].append((user, rating))
        scale = (float(ratings.min()), float(ratings.max()))
        svd = SVD(
            n_factors=self.num_factors,
            n_epochs=self.num_epochs,
            lr_all=self.learning_rate,
            reg_all=self.regularization,
            random_state=self.seed,
        )
        svd.fit(Trainset(by_user, by_item, num_users, num_items, len(ratings), scale, {}, {}))
        # The vectors of users and items without ratings are still the random initial ones.
        has_user = np.bincount(users, minlength=num_users) > 0
        has_item = np.bincount(items, minlength=num_items) > 0
        return RatingScorer(
            scale=scale,
            mean=float(ratings.mean()),
            user_biases=svd.bu.astype(np.float32),
            item_biases=svd.bi.astype(np.float32),
            user_vectors=(svd.pu * has_user[:, None]).astype(np.float32),
            item_vectors=(svd.qi * has_item[:, None]).astype(np.float32),
        )


@dataclass(frozen=True, kw_only=True)
class RatingScorer:
    """Predicts ratings; users and items without ratings count as average."""

    scale: tuple[float, float]
    """Lowest and highest rating seen: predictions are clipped to this range, scores are not."""
    mean: float
    user_biases: npt.NDArray[np.float32]
    """(users,) float32."""
    item_biases: npt.NDArray[np.float32]
    """(items,) float32."""
    user_vectors: npt.NDArray[np.float32]
    """(users, factors) float32."""
    item_vectors: npt.NDArray[np.float32]
    """(items, factors) float32."""

    def ratings(self, users: npt.NDArray[np.int64], items: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        """(n,) int64 users and (n,) int64 items, pair by pair -> (n,) float32 on the scale of the source."""
        products = np.einsum("nd,nd->n", self.user_vectors[users], self.item_vectors[items])
        predicted = self.mean + self.user_biases[users] + self.item_biases[items] + products
        clipped: npt.NDArray[np.float32] = predicted.clip(*self.scale).astype(np.float32)
        return clipped

    def scores(self, users: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        """(n,) int64 -> (n, items) float32, the predicted ratings."""
        products = self.user_vectors[users] @ self.item_vectors.T
        scores: npt.NDArray[np.float32] = products + self.item_biases + self.user_biases[users, None] + self.mean
        return scores.astype(np.float32, copy=False)
