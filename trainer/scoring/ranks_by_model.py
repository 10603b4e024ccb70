"""Full ranking of held-out items by a model and its blends, by a bundle, or by popularity."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from tandem.contract.manifest import BlendSpec
from trainer.dataset.dataset import Dataset, HoldOut, history_states
from trainer.scoring.full_ranking import Asked, ScoreUsers, rank_all
from trainer.scoring.scoring_model import BlendedScores, EncodedUsers, ScoringModel, vectors_of_users


def ranks_of_targets(
    dataset: Dataset, hold_out: HoldOut, score_users: ScoreUsers, *, num_rankings: int = 1
) -> list[npt.NDArray[np.int64]]:
    """0-based rank of every held-out item, (evaluated users,) int64 for each ranking; see `rank_all`."""
    asked = Asked.of_hold_out(dataset, hold_out)
    return [ranking.ranks for ranking in rank_all(asked, score_users, num_rankings=num_rankings)]


def model_ranks(
    dataset: Dataset,
    hold_out: HoldOut,
    model: ScoringModel,
    blends: Sequence[BlendSpec | None],
    *,
    encoded_users: EncodedUsers | None = None,
) -> list[npt.NDArray[np.int64]]:
    """Ranks by a model for each blend, where None is the two towers alone; one pass over the users serves all blends.

    The model may be older than the data: items that it does not know rank last. `encoded_users`, the hold-out's users
    encoded by this model, saves running the user tower. Returns (evaluated users,) int64 for each blend. Raises
    ValueError for a blend of a source that the model does not have.
    """
    scores_of = BlendedScores(model, dataset.catalogue.vocabulary, blends)

    def score_users(users: npt.NDArray[np.int64]) -> Iterator[npt.NDArray[np.float32]]:
        states = history_states(dataset, hold_out, users)
        return scores_of(vectors_of_users(dataset, users, states, model, encoded_users), states)

    return ranks_of_targets(dataset, hold_out, score_users, num_rankings=len(blends))


def popularity_ranks(dataset: Dataset, hold_out: HoldOut) -> npt.NDArray[np.int64]:
    """Ranks by popularity in the training part of the hold-out: the baseline that every model has to beat."""
    popularity = dataset.popularity(hold_out.num_history_events).astype(np.float32)
    (ranks,) = ranks_of_targets(dataset, hold_out, lambda users: [np.tile(popularity, (len(users), 1))])
    return ranks
