"""Evaluates any scorer on any part by full ranking."""

from __future__ import annotations

import hashlib

import numpy as np
import numpy.typing as npt

from trainer.dataset.parts import Part
from trainer.evaluation.evaluation import FULL_RANKING, Evaluation
from trainer.evaluation.list_quality import coverage, diversity, gini, novelty
from trainer.evaluation.metrics import CUTOFF, PerUser
from trainer.evaluation.ranking import Ranking, rank_part
from trainer.evaluation.scorer import RatingPredictor, Scorer
from trainer.evaluation.segments import head_items


def evaluate(
    part: Part,
    scorer: Scorer,
    *,
    name: str,
    content_vectors: npt.NDArray[np.floating] | None = None,
    seed: int = 0,
) -> Evaluation:
    """Full ranking of the part, lists, and the error of ratings where the scorer predicts them.

    `content_vectors`, (items, content_dim), are what the diversity of lists is measured by; without them it is left
    out. Give all scorers of one comparison the same. `seed` breaks ties.
    """
    return evaluation_of(part, scorer, rank_part(part, scorer, seed=seed), name=name, content_vectors=content_vectors)


def evaluation_of(
    part: Part,
    scorer: Scorer,
    ranking: Ranking,
    *,
    name: str,
    content_vectors: npt.NDArray[np.floating] | None = None,
) -> Evaluation:
    """The same where the ranking is at hand already."""
    popularity = item_popularity(part)
    lists = ranking.top_rows[:, :CUTOFF]
    list_metrics = {f"novelty@{CUTOFF}": novelty(lists, popularity, int((part.known.lengths > 0).sum()))}
    if content_vectors is not None:
        list_metrics[f"diversity@{CUTOFF}"] = diversity(lists, content_vectors)
    return Evaluation(
        name=name,
        protocol=FULL_RANKING,
        part=part.name,
        question=question_digest(part),
        ranks=ranking.ranks,
        target_offsets=part.target_offsets,
        num_known_events=part.known.lengths[part.users],
        head_targets=head_items(popularity)[part.target_rows],
        list_metrics=list_metrics,
        totals={
            f"coverage@{CUTOFF}": coverage(lists, len(popularity)),
            f"gini@{CUTOFF}": gini(lists, len(popularity)),
            **(rating_errors(part, scorer) if isinstance(scorer, RatingPredictor) else {}),
        },
    )


def rating_errors(part: Part, predictor: RatingPredictor) -> dict[str, float]:
    """rmse and mae over all targets that have a rating, on the scale of the source; empty where none has one."""
    rated = ~np.isnan(part.target_ratings)
    if not rated.any():
        return {}
    users = np.repeat(part.users, np.diff(part.target_offsets))[rated]
    predicted = predictor.ratings(users, part.target_rows[rated]).astype(np.float64)
    errors: PerUser = predicted - part.target_ratings[rated]
    return {"rmse": float(np.sqrt((errors**2).mean())), "mae": float(np.abs(errors).mean())}


def item_popularity(part: Part) -> npt.NDArray[np.int64]:
    """(items,) int64, known interactions with each item of the catalogue."""
    return np.bincount(part.known.item_rows, minlength=len(part.known.catalogue))


def question_digest(part: Part) -> str:
    """SHA-256 of items, evaluated users, what is known, and the targets; hex."""
    digest = hashlib.sha256(part.known.catalogue.vocabulary.content_hash.encode())
    digest.update("\n".join(part.known.user_ids[user] for user in part.users).encode())
    for array in (part.users, part.known.offsets, part.known.item_rows, part.target_offsets, part.target_rows):
        digest.update(np.ascontiguousarray(array, dtype="<i8").data)
    return digest.hexdigest()
