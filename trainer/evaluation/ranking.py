"""Full ranking: all targets of a part among all items of the catalogue, and the first items each user would see.

Items of the user's history are no candidates, nor are those that are not available: as a target, such an item comes
after all candidates. Equal scores are ordered at random, independently for each user, so that a scorer gains nothing
from scores that do not tell items apart.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tandem.contract.vocabulary import MISSING_ROW, Rows
from trainer.dataset import Dataset
from trainer.evaluation.metrics import CUTOFFS
from trainer.evaluation.parts import Part
from trainer.evaluation.scorer import Scorer

LIST_LENGTH = max(CUTOFFS)
_BATCH_USERS = 1_024
_BATCH_PAIRS = 1 << 23
"""Most scores at once; with their keys they take about 20 bytes each."""
_NO_CANDIDATE = np.uint64(0)
_SIGN = np.uint32(1 << 31)
_MINUS_INFINITY = np.uint64((0xFF800000 ^ 0xFFFFFFFF) << 32)
_AFTER_MINUS_INFINITY = _MINUS_INFINITY + np.uint64(1 << 32)


@dataclass(frozen=True, kw_only=True)
class Ranking:
    """Where a scorer puts the targets of a part, and what it puts in front."""

    ranks: npt.NDArray[np.int64]
    """(targets,) int64, the 0-based rank of each target among its user's candidates; none twice for one user."""
    top_rows: Rows
    """(evaluated, LIST_LENGTH) int64, the best items of each user, best first; MISSING_ROW after the last item that is
    a candidate and that the scorer knows."""


def rank_part(part: Part, scorer: Scorer, *, seed: int = 0) -> Ranking:
    """Ranks the whole catalogue for every user of the part. An item that the scorer does not know comes last.

    Raises ValueError where the scorer gives NaN.
    """
    num_items = len(part.known.catalogue)
    generator = np.random.default_rng(seed)
    ranks = np.empty(len(part.target_rows), dtype=np.int64)
    top_rows = np.full((len(part.users), LIST_LENGTH), MISSING_ROW, dtype=np.int64)
    batch = max(1, min(_BATCH_USERS, _BATCH_PAIRS // max(1, num_items)))
    for start in range(0, len(part.users), batch):
        users = part.users[start : start + batch]
        keys = order_keys(scorer.scores(users), generator)
        rows, items = history_pairs(part.known, users)
        keys[rows, items] = _NO_CANDIDATE
        keys[:, part.known.catalogue.unavailable_rows] = _NO_CANDIDATE
        for row, user_keys in enumerate(keys):
            targets = slice(part.target_offsets[start + row], part.target_offsets[start + row + 1])
            ranks[targets] = _ranks_among(user_keys, part.target_rows[targets])
        best = _best_items(keys)
        top_rows[start : start + len(users), : best.shape[1]] = best
    return Ranking(ranks=ranks, top_rows=top_rows)


def order_keys(scores: npt.NDArray[np.float32], generator: np.random.Generator) -> npt.NDArray[np.uint64]:
    """Keys that order like the scores, and at random where scores are equal. Any shape; uint64, none is 0.

    The upper half is the score's bits, turned so that unsigned order is that of floats; the lower half is random.
    Raises ValueError for NaN.
    """
    if np.isnan(scores).any():
        raise ValueError("a scorer gave NaN")
    bits = (scores + np.float32(0)).view(np.uint32)  # + 0: -0.0 and 0.0 are equal
    bits ^= np.where(bits & _SIGN, np.uint32(0xFFFFFFFF), _SIGN)
    keys = bits.astype(np.uint64)
    keys <<= np.uint64(32)
    keys |= generator.integers(0, 1 << 32, size=scores.shape, dtype=np.uint32)
    return keys


def history_pairs(dataset: Dataset, users: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.int64], Rows]:
    """All events of users, (n,) int64, as places in `users` and item rows; two (events,) int64."""
    lengths = dataset.lengths[users]
    places = np.repeat(np.arange(len(users)), lengths)
    within = np.arange(len(places)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    return places, dataset.item_rows[dataset.offsets[users][places] + within]


def _ranks_among(keys: npt.NDArray[np.uint64], targets: Rows) -> npt.NDArray[np.int64]:
    """Ranks of (t,) targets by the keys, (items,), of one user: how many items are in front of each.

    Targets that are no candidates come after all candidates, one after the other. All items are sorted in between the
    targets, which costs items * log(targets), however many targets there are.
    """
    order = np.argsort(keys[targets], kind="stable")
    gaps = np.searchsorted(keys[targets][order], keys)  # how many targets an item is in front of
    in_gap = np.bincount(gaps, minlength=len(targets) + 1)
    ranks = np.empty(len(targets), dtype=np.int64)
    ranks[order] = in_gap[::-1].cumsum()[::-1][1:]
    absent = np.flatnonzero(keys[targets] == _NO_CANDIDATE)
    ranks[absent] += np.arange(len(absent))
    return ranks


def _best_items(keys: npt.NDArray[np.uint64]) -> Rows:
    """(users, at most LIST_LENGTH) int64, best first, from (users, items) keys."""
    num_best = min(LIST_LENGTH, keys.shape[1])
    best = np.argpartition(keys, keys.shape[1] - num_best, axis=1)[:, keys.shape[1] - num_best :]
    order = np.argsort(np.take_along_axis(keys, best, axis=1), axis=1)[:, ::-1]
    best = np.take_along_axis(best, order, axis=1)
    recommended = np.take_along_axis(keys, best, axis=1) >= _AFTER_MINUS_INFINITY
    return np.where(recommended, best, MISSING_ROW)
