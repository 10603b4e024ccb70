"""A served model as a scorer for any split."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from tandem.contract.manifest import BlendSpec
from trainer.dataset.dataset import Dataset, everything, history_states
from trainer.scoring.candidate_ranking import RankedModel
from trainer.scoring.scorer import Scorer
from trainer.scoring.scoring_model import BlendedScores, ScoringModel, vectors_of_users


class ModelScorer:
    """Scores by a model's blend, or by its two towers alone, from the users' known events.

    States are encoded as in serving; a user without a known event is scored from an empty history and the user's
    features. The model may be older than the data: an item that it does not know is -inf.
    """

    def __init__(self, known: Dataset, model: ScoringModel, spec: BlendSpec | None) -> None:
        """`spec` None is the two towers alone. Raises ValueError for a source that the model does not have."""
        self._known = known
        self._model = model
        self._scores = BlendedScores(model, known.catalogue.vocabulary, [spec])

    def scores(self, users: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        """(n,) int64 -> (n, items) float32."""
        states = history_states(self._known, everything(self._known), users)
        vectors = vectors_of_users(self._known, users, states, self._model)
        (scores,) = self._scores(vectors, states)
        return scores


class ServedScorer:
    """Scores as the server answers: users without a known event get the most popular items."""

    def __init__(self, known: Dataset, model: Scorer) -> None:
        """`model` scores all other users."""
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
    """Scores as a model with an ONNX ranker is served: an item that is no candidate is -inf.

    The model may be older than the data: an item that it does not know is -inf too.
    """

    def __init__(self, known: Dataset, ranked: RankedModel) -> None:
        self._score_users = ranked.score_users(known, everything(known))

    def scores(self, users: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        """(n,) int64 -> (n, items) float32."""
        (scores,) = self._score_users(users)
        return scores
