"""Full ranking: all targets of each user among all items of the catalogue, and the first items each user would see.

Items that the user has seen (chosen, or rated low) and unavailable items are not candidates: as a target, such an item
ranks after all candidates. `trainer.evaluation.ranks` orders equal scores.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tandem.contract.vocabulary import MISSING_ROW, Rows
from trainer.dataset.dataset import Cut, Dataset, HoldOut
from trainer.dataset.eval_split import EvalSplit
from trainer.evaluation.metrics import CUTOFFS
from trainer.evaluation.ranks import NO_CANDIDATE, TieOrder, best_items, ranks_of_targets
from trainer.scoring.scorer import Scorer

LIST_LENGTH = max(CUTOFFS)
BATCH_USERS = 1_024
BATCH_PAIRS = 1 << 25
"""Most scores in a batch: with a million items a batch has 33 users, and a matrix 128 MiB."""

ScoreUsers = Callable[[npt.NDArray[np.int64]], Iterable[npt.NDArray[np.float32]]]
"""Takes rows of users, (n,) int64, and yields (n, items) float32 for each of several rankings, a new array that the
caller may overwrite. Higher is better; an unknown item is -inf."""


@dataclass(frozen=True, kw_only=True)
class Asked:
    """Users and targets to rank: a view of a split or a hold-out, without copies."""

    dataset: Dataset
    cut: Cut
    """Its users, (evaluated,), are ranked; events before it in `dataset` are history."""
    target_offsets: npt.NDArray[np.int64]
    """(evaluated + 1,) int64, as in `EvalSplit`."""
    target_rows: Rows
    """(targets,) int64, as in `EvalSplit`."""

    @classmethod
    def of_split(cls, split: EvalSplit) -> Asked:
        """The users of a split, with any number of targets each."""
        return cls(
            dataset=split.known,
            cut=Cut(split.known.lengths, split.users),
            target_offsets=split.target_offsets,
            target_rows=split.target_rows,
        )

    @classmethod
    def of_hold_out(cls, dataset: Dataset, hold_out: HoldOut) -> Asked:
        """The users of a hold-out, with one target each."""
        return cls(
            dataset=dataset,
            cut=hold_out,
            target_offsets=np.arange(len(hold_out.users) + 1),
            target_rows=hold_out.target_rows,
        )


@dataclass(frozen=True, kw_only=True)
class Ranking:
    """Ranks that a scorer gives the targets, and its best items."""

    ranks: npt.NDArray[np.int64]
    """(targets,) int64, the 0-based rank of each target among its user's candidates; distinct within a user."""
    top_rows: Rows
    """(evaluated, list length) int64, the best items of each user, best first; MISSING_ROW after the last candidate
    that the scorer knows."""


def rank_split(split: EvalSplit, scorer: Scorer, *, seed: int = 0) -> Ranking:
    """Ranks of all targets, and lists of LIST_LENGTH items; see `rank_all`."""
    asked = Asked.of_split(split)
    (ranking,) = rank_all(asked, lambda users: [scorer.scores(users)], list_length=LIST_LENGTH, seed=seed)
    return ranking


def rank_all(
    asked: Asked, score_users: ScoreUsers, *, num_rankings: int = 1, list_length: int = 0, seed: int = 0
) -> list[Ranking]:
    """Ranks the whole catalogue for every user of `asked`. Items that the scorer does not know rank last.

    Lists cost several times as much as ranks; `list_length` 0 leaves them out. Raises ValueError for a score of NaN.
    """
    num_users, num_items = len(asked.cut.users), len(asked.dataset.catalogue)
    order = TieOrder.drawn(num_users, num_items, seed)
    rankings = [
        Ranking(
            ranks=np.empty(len(asked.target_rows), dtype=np.int64),
            top_rows=np.full((num_users, list_length), MISSING_ROW, dtype=np.int64),
        )
        for _ in range(num_rankings)
    ]
    batch = max(1, min(BATCH_USERS, BATCH_PAIRS // max(1, num_items)))
    for start in range(0, num_users, batch):
        users = asked.cut.users[start : start + batch]
        for ranking, scores in zip(rankings, score_users(users), strict=True):
            _keep_candidates(asked, users, scores)
            offsets = asked.target_offsets[start : start + len(users) + 1]
            targets = slice(offsets[0], offsets[-1])
            ranking.ranks[targets] = ranks_of_targets(
                scores, offsets - offsets[0], asked.target_rows[targets], order, first_user=start
            )
            if list_length:
                for position, user_scores in enumerate(scores, start):
                    best = best_items(user_scores, order.keys_of_user(position), list_length)
                    ranking.top_rows[position, : len(best)] = best
    return rankings


def _keep_candidates(asked: Asked, users: npt.NDArray[np.int64], scores: npt.NDArray[np.float32]) -> None:
    """Sets the scores, (users, items), of items that cannot be recommended to NO_CANDIDATE."""
    if np.isnan(scores.min()):
        raise ValueError("a scorer gave NaN")
    dataset = asked.dataset
    scores[:, dataset.catalogue.unavailable_rows] = NO_CANDIDATE
    for user_scores, user in zip(scores, users.tolist(), strict=True):
        user_scores[dataset.seen_rows(user, int(asked.cut.num_history_events[user]))] = NO_CANDIDATE
