"""A model, as it is served, as a scorer for any part."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from tandem.contract.manifest import BlendSpec
from tandem.contract.vocabulary import MISSING_ROW
from trainer.dataset import Dataset
from trainer.evaluation.reranking import RankedModel
from trainer.evaluation.scorer import Scorer
from trainer.evaluation.scoring import BlendedScores, ScoringModel


class ModelScorer:
    """Scores by a model's blend, or by its two towers alone, from the users' known events.

    States are encoded as in serving; a user without a known event is scored from an empty history and their features.
    The model may be older than the data: an item it does not know is -inf.
    """

    def __init__(self, known: Dataset, model: ScoringModel, spec: BlendSpec | None) -> None:
        """`spec` None is the two towers alone. Raises ValueError for a blend of what the model does not have."""
        self._known = known
        self._scores = BlendedScores(model, known.catalogue.vocabulary, [spec])

    def scores(self, users: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        """(n,) int64 -> (n, items) float32."""
        lengths = self._known.lengths[users]
        states = [self._known.user_state(int(user), int(length)) for user, length in zip(users, lengths, strict=True)]
        (scores,) = self._scores([self._known.user_ids[user] for user in users], states)
        return scores


class ServedScorer:
    """Scores as the server answers: users without a known event get the most popular items."""

    def __init__(self, known: Dataset, model: Scorer) -> None:
        """`model` scores everyone else."""
        self._lengths = known.lengths
        self._popularity = known.popularity(known.lengths).astype(np.float32)
        self._model = model

    def scores(self, users: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        """(n,) int64 -> (n, items) float32."""
        has_events = self._lengths[users] > 0
        scores = np.tile(self._popularity, (len(users), 1))
        if has_events.any():
            scores[has_events] = self._model.scores(users[has_events])
        return scores


class RankedModelScorer:
    """Scores as a model with an ONNX ranker is served: what is no candidate is -inf.

    The model may be older than the data: an item it does not know is -inf too.
    """

    def __init__(self, known: Dataset, ranked: RankedModel) -> None:
        self._known = known
        self._ranked = ranked
        self._model_rows = ranked.model.item_vocabulary.rows_of_keys(known.catalogue.vocabulary.keys)

    def scores(self, users: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        """(n,) int64 -> (n, items) float32."""
        lengths = self._known.lengths[users]
        states = [self._known.user_state(int(user), int(length)) for user, length in zip(users, lengths, strict=True)]
        of_model = self._ranked.scores_of([self._known.user_ids[user] for user in users], states)
        scores = np.full((len(users), len(self._known.catalogue)), -np.inf, dtype=np.float32)
        known = np.flatnonzero(self._model_rows != MISSING_ROW)
        scores[:, known] = of_model[:, self._model_rows[known]]
        return scores
