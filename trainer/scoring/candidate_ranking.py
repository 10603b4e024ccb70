"""A model with a ranker as it is served by default: the ranker orders the candidates of the two towers and of every
source.

An item that is no candidate cannot be shown, so its score is -inf. Full ranking by a blend differs only in that: it has
a score for every item.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tandem.contract import names
from tandem.contract.candidates import TWO_TOWER_CANDIDATES
from tandem.contract.features import Tensors, encode_index
from tandem.contract.store import UserState
from tandem.contract.vocabulary import MISSING_ROW, Rows
from trainer.dataset.dataset import Cut, Dataset, history_states
from trainer.scoring.scoring_model import ScoringModel
from trainer.sources.content.source import content_of

PairScores = Callable[[Tensors], npt.NDArray[np.float32]]
"""Runs a ranker: the tensors RANKER_* of (user, candidate) pairs, (pairs, ...) each -> (pairs,) float32."""
BATCH_USERS = 256
"""Users in a batch whose candidates are found together."""


@dataclass(frozen=True, kw_only=True)
class Candidates:
    """Candidates of a batch of users."""

    rows: Rows
    """(users, candidates) int64, rows of the model; any row where `present` is false."""
    present: npt.NDArray[np.bool_]
    """(users, candidates) bool."""
    user_vectors: npt.NDArray[np.float32]
    """(users, dim) float32."""
    user_index: npt.NDArray[np.int64]
    """(users,) int64; 0 for a user whose id the model does not know."""
    profiles: npt.NDArray[np.float32] | None
    """(users, content_dim) float32; None for a model without content."""


@dataclass(frozen=True, kw_only=True)
class RankedModel:
    """Two towers with a ranker on top."""

    model: ScoringModel
    pair_scores: PairScores

    def scores_of(self, user_ids: Sequence[str], states: Sequence[UserState]) -> npt.NDArray[np.float32]:
        """Scores of users in these states: (users, items) float32 in the model's rows; -inf without a candidate."""
        scores = np.full((len(states), len(self.model.item_vectors)), -np.inf, dtype=np.float32)
        for start in range(0, len(states), BATCH_USERS):
            batch = slice(start, start + BATCH_USERS)
            found = candidates_of(self.model, user_ids[batch], states[batch])
            users, columns = np.nonzero(found.present)
            scores[start + users, found.rows[users, columns]] = score_candidates(self.model, found, self.pair_scores)[
                users, columns
            ]
        return scores

    def score_users(
        self, dataset: Dataset, cut: Cut
    ) -> Callable[[npt.NDArray[np.int64]], Iterator[npt.NDArray[np.float32]]]:
        """A `ScoreUsers` for `rank_all`: scores of users, as they were at the cut, in the rows of the data set.

        The model may be older than the data: an item that it does not know is no candidate.
        """
        model_rows = self.model.item_vocabulary.rows_of_keys(dataset.catalogue.vocabulary.keys)
        known = np.flatnonzero(model_rows != MISSING_ROW)

        def scores(users: npt.NDArray[np.int64]) -> Iterator[npt.NDArray[np.float32]]:
            model_scores = self.scores_of(
                [dataset.user_ids[user] for user in users], history_states(dataset, cut, users)
            )
            item_scores = np.full((len(users), len(model_rows)), -np.inf, dtype=np.float32)
            item_scores[:, known] = model_scores[:, model_rows[known]]
            yield item_scores

        return scores


def candidates_of(
    model: ScoringModel,
    user_ids: Sequence[str],
    states: Sequence[UserState],
) -> Candidates:
    """Unseen, available candidates as the server's built-in policy takes them, without repeats for a user."""
    user_vectors = model.vectors_of(user_ids, states)
    collaborative = user_vectors @ model.item_vectors.T
    collaborative[:, model.unavailable_rows] = -np.inf
    for user, state in enumerate(states):
        seen = model.item_vocabulary.rows_of_keys(state.seen_item_keys)
        collaborative[user, seen[seen != MISSING_ROW]] = -np.inf
    rows = top_rows(collaborative, TWO_TOWER_CANDIDATES)
    histories = model.histories(states)
    proposed = [source.candidates(histories) for source in model.sources.values()]
    rows = np.concatenate([rows, *proposed], axis=1)
    users = np.arange(len(states))[:, None]
    content = content_of(model.sources)
    present = (rows != MISSING_ROW) & np.isfinite(collaborative[users, rows])
    order = np.argsort(rows, axis=1, kind="stable")  # equal rows become neighbours, and the first of them is kept
    in_order = rows[users, order]
    repeated = np.zeros_like(present)
    repeated[users, order[:, 1:]] = in_order[:, 1:] == in_order[:, :-1]
    return Candidates(
        rows=np.maximum(rows, 0),
        present=present & ~repeated,
        user_vectors=user_vectors,
        user_index=(
            np.zeros(len(states), dtype=np.int64)
            if model.user_vocabulary is None
            else encode_index(model.user_vocabulary.rows(user_ids))
        ),
        profiles=None if content is None else content.profiles(histories),
    )


def score_candidates(model: ScoringModel, found: Candidates, pair_scores: PairScores) -> npt.NDArray[np.float32]:
    """Scores of the candidates, (users, candidates) float32; -inf without a candidate."""
    scores = np.full(found.rows.shape, -np.inf, dtype=np.float32)
    users, columns = np.nonzero(found.present)
    scores[users, columns] = pair_scores(pair_tensors(model, found, users, found.rows[users, columns]))
    return scores


def pair_tensors(model: ScoringModel, found: Candidates, users: npt.NDArray[np.int64], rows: Rows) -> Tensors:
    """Tensors of (user, item) pairs: `users`, (pairs,) int64, are indices into `found`; `rows`, (pairs,) int64, items.

    The collaborative score is the inner product of both vectors, the content score the inner product of profile and
    content vector; without content it is 0, as in serving.
    """
    user_vectors, item_vectors = found.user_vectors[users], model.item_vectors[rows]
    content = np.zeros(len(rows), dtype=np.float32)
    source = content_of(model.sources)
    if found.profiles is not None and source is not None:
        content = np.einsum("pd,pd->p", found.profiles[users], source.vectors[rows].astype(np.float32))
    return {
        names.RANKER_USER_VECTOR: user_vectors,
        names.RANKER_ITEM_VECTOR: item_vectors,
        names.RANKER_USER_INDEX: found.user_index[users],
        names.RANKER_ITEM_INDEX: encode_index(rows),
        names.RANKER_COLLABORATIVE_SCORE: np.einsum("pd,pd->p", user_vectors, item_vectors),
        names.RANKER_CONTENT_SCORE: content,
    }


def top_rows(scores: npt.NDArray[np.float32], count: int) -> Rows:
    """Rows of each user's `count` highest scores, of (users, items), unordered: (users, at most count) int64."""
    if count >= scores.shape[1]:
        return np.tile(np.arange(scores.shape[1]), (len(scores), 1))
    return np.argpartition(-scores, count - 1, axis=1)[:, :count]
