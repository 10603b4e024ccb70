"""A model, as it is served, as a scorer for any part."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from tandem.contract.manifest import BlendSpec
from trainer.dataset import Dataset
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
