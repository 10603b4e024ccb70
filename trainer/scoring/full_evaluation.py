"""Evaluates any scorer on any split by full ranking."""

from __future__ import annotations

import hashlib

import numpy as np
import numpy.typing as npt

from trainer.dataset.eval_split import EvalSplit
from trainer.evaluation.evaluation import FULL_RANKING, Evaluation
from trainer.evaluation.list_quality import coverage, diversity, gini, novelty
from trainer.evaluation.metrics import CUTOFF, PerUser
from trainer.evaluation.segments import head_items
from trainer.scoring.full_ranking import Ranking, rank_split
from trainer.scoring.scorer import RatingPredictor, Scorer


def evaluate(
    split: EvalSplit,
    scorer: Scorer,
    *,
    name: str,
    content_vectors: npt.NDArray[np.floating] | None = None,
    seed: int = 0,
) -> Evaluation:
    """Full ranking of the split, list metrics, and rating errors if the scorer predicts ratings.

    `content_vectors`, (items, content_dim), measure the diversity of lists; None leaves diversity out. All scorers of a
    comparison need the same vectors. `seed` breaks ties.
    """
    ranking = rank_split(split, scorer, seed=seed)
    return evaluation_of(split, scorer, ranking, name=name, content_vectors=content_vectors)


def evaluation_of(
    split: EvalSplit,
    scorer: Scorer,
    ranking: Ranking,
    *,
    name: str,
    content_vectors: npt.NDArray[np.floating] | None = None,
) -> Evaluation:
    """As `evaluate`, from a ranking of the scorer on the split."""
    popularity = item_popularity(split)
    lists = ranking.top_rows[:, :CUTOFF]
    list_metrics = {f"novelty@{CUTOFF}": novelty(lists, popularity, int((split.known.lengths > 0).sum()))}
    if content_vectors is not None:
        list_metrics[f"diversity@{CUTOFF}"] = diversity(lists, content_vectors)
    return Evaluation(
        name=name,
        protocol=FULL_RANKING,
        split=split.name,
        question=question_digest(split),
        ranks=ranking.ranks,
        target_offsets=split.target_offsets,
        num_known_events=split.known.lengths[split.users],
        head_targets=head_items(popularity)[split.target_rows],
        list_metrics=list_metrics,
        totals={
            f"coverage@{CUTOFF}": coverage(lists, len(popularity)),
            f"gini@{CUTOFF}": gini(lists, len(popularity)),
            **(rating_errors(split, scorer) if isinstance(scorer, RatingPredictor) else {}),
        },
    )


def rating_errors(split: EvalSplit, predictor: RatingPredictor) -> dict[str, float]:
    """rmse and mae over all targets with a rating, on the scale of the source; empty if no target has a rating."""
    rated = ~np.isnan(split.target_ratings)
    if not rated.any():
        return {}
    users = np.repeat(split.users, np.diff(split.target_offsets))[rated]
    predicted = predictor.ratings(users, split.target_rows[rated]).astype(np.float64)
    errors: PerUser = predicted - split.target_ratings[rated]
    return {"rmse": float(np.sqrt((errors**2).mean())), "mae": float(np.abs(errors).mean())}


def item_popularity(split: EvalSplit) -> npt.NDArray[np.int64]:
    """(items,) int64, number of known interactions with each item of the catalogue."""
    return np.bincount(split.known.item_rows, minlength=len(split.known.catalogue))


def question_digest(split: EvalSplit) -> str:
    """SHA-256 of items, evaluated users, known interactions, low ratings and targets; hex."""
    digest = hashlib.sha256(split.known.catalogue.vocabulary.content_hash.encode())
    digest.update("\n".join(split.known.user_ids[user] for user in split.users).encode())
    for array in (split.users, split.known.offsets, split.known.item_rows, split.target_offsets, split.target_rows):
        digest.update(np.ascontiguousarray(array, dtype="<i8").data)
    low_rated = split.known.low_rated
    for numbers in (low_rated.user_rows, low_rated.num_events_before, low_rated.item_keys.view(np.int64)):
        digest.update(np.ascontiguousarray(numbers, dtype="<i8").data)
    return digest.hexdigest()
