"""Full ranking: all targets of each user among all items of the catalogue, and the first items each user would see.

Items of the user's history are no candidates, nor are those that are not available: as a target, such an item comes
after all candidates. Equal scores are ordered at random, independently for each user, so that a scorer gains nothing
from scores that do not tell items apart. The order depends on the seed, the user's place and the item alone, so it is
the same for every scorer, in ranks and in lists, and in batches of any size.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tandem.contract.vocabulary import MISSING_ROW, Rows
from trainer.dataset.dataset import Cut, Dataset, HoldOut
from trainer.dataset.parts import Part
from trainer.evaluation.metrics import CUTOFFS
from trainer.evaluation.scorer import Scorer

LIST_LENGTH = max(CUTOFFS)
BATCH_USERS = 1_024
BATCH_PAIRS = 1 << 25
"""Most scores of one batch: a million items leave 33 users at once, at 128 MiB a matrix."""
_NO_CANDIDATE = np.float32(np.nan)  # neither above nor below any score, nor equal to one, and sorted after all

ScoreUsers = Callable[[npt.NDArray[np.int64]], Iterable[npt.NDArray[np.float32]]]
"""Takes rows of users, (n,) int64, and gives (n, items) float32 of its own for each of several rankings, one after the
other, which the caller may overwrite. Higher is better; an item that is not known is -inf."""


@dataclass(frozen=True, kw_only=True)
class Asked:
    """Who is asked for what: a view of a part or a hold-out, of which nothing is copied."""

    dataset: Dataset
    cut: Cut
    """Its users are asked, (evaluated,); what comes before it in `dataset` is history."""
    target_offsets: npt.NDArray[np.int64]
    """(evaluated + 1,) int64, as in `Part`."""
    target_rows: Rows
    """(targets,) int64, as in `Part`."""

    @classmethod
    def of_part(cls, part: Part) -> Asked:
        """Any number of targets of each user."""
        return cls(
            dataset=part.known,
            cut=Cut(part.known.lengths, part.users),
            target_offsets=part.target_offsets,
            target_rows=part.target_rows,
        )

    @classmethod
    def of_hold_out(cls, dataset: Dataset, hold_out: HoldOut) -> Asked:
        """One target of each user."""
        return cls(
            dataset=dataset,
            cut=hold_out,
            target_offsets=np.arange(len(hold_out.users) + 1),
            target_rows=hold_out.target_rows,
        )


@dataclass(frozen=True, kw_only=True)
class Ranking:
    """Where a scorer puts the targets, and what it puts in front."""

    ranks: npt.NDArray[np.int64]
    """(targets,) int64, the 0-based rank of each target among its user's candidates; none twice for one user."""
    top_rows: Rows
    """(evaluated, list length) int64, the best items of each user, best first; MISSING_ROW after the last item that is
    a candidate and that the scorer knows."""


@dataclass(frozen=True)
class TieOrder:
    """In what order items with equal scores come for each user: the one with the higher key is in front.

    A key is the product of a random number of the item and one of the user, modulo 2 ** 64. The numbers of users are
    odd, so that items with different numbers have different keys. Fresh random keys would cost more than the ranking.
    """

    of_items: npt.NDArray[np.uint64]
    """(items,) uint64."""
    of_users: npt.NDArray[np.uint64]
    """(evaluated,) uint64, odd."""

    @classmethod
    def drawn(cls, num_users: int, num_items: int, seed: int) -> TieOrder:
        """For the users of a part, by their places in it."""
        generator = np.random.default_rng(seed)
        of_items, of_users = (generator.integers(0, 1 << 64, n, dtype=np.uint64) for n in (num_items, num_users))
        return cls(of_items, of_users | np.uint64(1))

    def of_user(self, place: int) -> npt.NDArray[np.uint64]:
        """(items,) uint64, keys of all items for the user at that place."""
        keys: npt.NDArray[np.uint64] = self.of_items * self.of_users[place]
        return keys


def rank_part(part: Part, scorer: Scorer, *, seed: int = 0) -> Ranking:
    """Ranks of all targets, and lists of LIST_LENGTH; see `rank_all`."""
    asked = Asked.of_part(part)
    (ranking,) = rank_all(asked, lambda users: [scorer.scores(users)], list_length=LIST_LENGTH, seed=seed)
    return ranking


def rank_all(
    asked: Asked, score_users: ScoreUsers, *, num_rankings: int = 1, list_length: int = 0, seed: int = 0
) -> list[Ranking]:
    """Ranks the whole catalogue for every user who is asked. An item that is not known comes last.

    Lists cost several times what ranks alone do; `list_length` 0 leaves them out. Raises ValueError for a score of NaN.
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
            targets = slice(asked.target_offsets[start], asked.target_offsets[start + len(users)])
            ranking.ranks[targets] = _ranks_of_targets(asked, start, scores, order)
            if list_length:
                for place, user_scores in enumerate(scores, start):
                    best = _best_items(user_scores, order.of_user(place), list_length)
                    ranking.top_rows[place, : len(best)] = best
    return rankings


def _keep_candidates(asked: Asked, users: npt.NDArray[np.int64], scores: npt.NDArray[np.float32]) -> None:
    """Writes _NO_CANDIDATE over the scores, (users, items), of what cannot be recommended."""
    if np.isnan(scores.min()):
        raise ValueError("a scorer gave NaN")
    dataset = asked.dataset
    scores[:, dataset.catalogue.unavailable_rows] = _NO_CANDIDATE
    firsts = dataset.offsets[users]
    for user_scores, first, end in zip(scores, firsts, firsts + asked.cut.num_history_events[users], strict=True):
        user_scores[dataset.item_rows[first:end]] = _NO_CANDIDATE


def _ranks_of_targets(
    asked: Asked, start: int, scores: npt.NDArray[np.float32], order: TieOrder
) -> npt.NDArray[np.int64]:
    """Ranks of the targets of the users from place `start` on, by their (users, items) scores.

    A rank is how many items are in front. Targets that are no candidates come after all, one after the other.
    """
    offsets = asked.target_offsets[start : start + len(scores) + 1]
    targets = asked.target_rows[offsets[0] : offsets[-1]]
    offsets = offsets - offsets[0]
    user_of_target = np.repeat(np.arange(len(scores)), np.diff(offsets))
    of_targets = scores[user_of_target, targets]
    ranks, not_below = np.empty(len(targets), dtype=np.int64), np.empty(len(targets), dtype=np.int64)
    for user, user_scores in enumerate(scores):
        own = slice(offsets[user], offsets[user + 1])
        ranks[own], not_below[own] = _num_above(user_scores, of_targets[own])
    is_candidate = ~np.isnan(of_targets)
    is_tied = is_candidate & (not_below - ranks > 1)
    for user in np.unique(user_of_target[is_tied]):
        keys = order.of_user(start + user)
        for target in offsets[user] + np.flatnonzero(is_tied[offsets[user] : offsets[user + 1]]):
            in_front = (scores[user] == of_targets[target]) & (keys > keys[targets[target]])
            ranks[target] += np.count_nonzero(in_front)
    for user in np.unique(user_of_target[~is_candidate]):
        absent = offsets[user] + np.flatnonzero(~is_candidate[offsets[user] : offsets[user + 1]])
        ranks[absent] = np.count_nonzero(~np.isnan(scores[user])) + np.arange(len(absent))
    return ranks


def _num_above(
    scores: npt.NDArray[np.float32], of_targets: npt.NDArray[np.float32]
) -> tuple[np.int64 | npt.NDArray[np.int64], np.int64 | npt.NDArray[np.int64]]:
    """How many of the (items,) scores of a user are above each of (t,) scores, and how many are not below it."""
    if len(of_targets) == 1:  # two looks at every item are quicker than to sort them
        return np.count_nonzero(scores > of_targets), np.count_nonzero(scores >= of_targets)
    ascending = np.sort(scores)
    num_candidates = np.count_nonzero(~np.isnan(scores))
    not_above, below = np.searchsorted(ascending, of_targets, "right"), np.searchsorted(ascending, of_targets, "left")
    return num_candidates - not_above, num_candidates - below


def _best_items(scores: npt.NDArray[np.float32], keys: npt.NDArray[np.uint64], count: int) -> Rows:
    """(at most `count`,) int64, best first, from the scores, (items,), of one user, and the keys of ties."""
    num_best = min(count, int(np.count_nonzero(scores > -np.inf)))
    if num_best == 0:
        return np.empty(0, dtype=np.int64)
    place = len(scores) - np.count_nonzero(np.isnan(scores)) - num_best
    best = np.flatnonzero(scores >= np.partition(scores, place)[place])  # more than `num_best` where the last are tied
    return best[np.lexsort((keys[best], scores[best]))[::-1][:num_best]]
