"""Chooses the baselines' hyperparameters on validation, from small grids: an untuned baseline is easily beaten."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import structlog

from trainer.baselines.all_baselines import Choices, text_content, tf_idf_content
from trainer.baselines.ease import Ease
from trainer.baselines.histories import HistoryBaseline, HistoryScorer, WithRecency
from trainer.baselines.hybrid import HybridScorer
from trainer.baselines.ials import IALS
from trainer.baselines.item_knn import ItemKNN
from trainer.dataset.eval_split import EvalSplit
from trainer.scoring.scorer import Scorer

log = structlog.get_logger()

MAX_USERS = 5_000
"""Most validation users that the choices are made on."""

Learner = TypeVar("Learner", bound=HistoryBaseline)

Quality = Callable[[EvalSplit, Scorer], float]
"""How good a scorer is on a split; higher is better."""


@dataclass(frozen=True, kw_only=True)
class Grids:
    """Hyperparameter values to try."""

    item_knn: Sequence[ItemKNN] = tuple(
        ItemKNN(num_neighbours=neighbours, shrinkage=shrinkage)
        for neighbours, shrinkage in product((50, 200, 1_000), (0.0, 10.0, 50.0))
    )
    ease: Sequence[Ease] = tuple(Ease(l2=l2) for l2 in (20.0, 100.0, 300.0, 1_000.0))
    ials: Sequence[IALS] = tuple(
        IALS(regularization=regularization, alpha=alpha)
        for regularization, alpha in ((3.0, 5.0), (10.0, 2.0), (10.0, 5.0), (30.0, 10.0), (50.0, 20.0), (100.0, 20.0))
    )
    taus: Sequence[float] = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0)
    weights: Sequence[float] = (0.1, 0.2, 0.3, 0.5, 1.0, 1.5, 2.0)
    """Weights of a hybrid's parts relative to EASE+recency, which has 1; 0 is tried too."""


DEFAULT_GRIDS = Grids()


def tune(
    validation: EvalSplit, text_embeddings: npt.NDArray[np.float32], quality: Quality, grids: Grids = DEFAULT_GRIDS
) -> Choices:
    """The best of each grid on at most MAX_USERS validation users; ties go to the first.

    `text_embeddings` is (items, text_dim). Learners are chosen independently, with and without recency. Hybrids combine
    the chosen learners, and their weights are chosen one at a time.
    """
    split = _sampled(validation, MAX_USERS)
    item_knn, item_knn_recency, _ = _best_learner(grids.item_knn, grids.taus, split, quality)
    ease, ease_recency, ease_scorer = _best_learner(grids.ease, grids.taus, split, quality)
    ials, ials_recency, ials_scorer = _best_learner(grids.ials, grids.taus, split, quality)
    chosen = Choices(
        item_knn=item_knn,
        item_knn_recency=item_knn_recency,
        ease=ease,
        ease_recency=ease_recency,
        ials=ials,
        ials_recency=ials_recency,
    )
    if (text := text_content(text_embeddings)) is not None:
        _, recency, _ = _best_learner([text], grids.taus, split, quality)
        chosen = replace(chosen, text_tau=recency.recency_tau)
    if (words := tf_idf_content(split.known.catalogue)) is not None:
        _, recency, content_scorer = _best_learner([words], grids.taus, split, quality)

        def hybrid_quality(ials_weight: float, content_weight: float) -> float:
            parts = [(ease_scorer, 1.0), (ials_scorer, ials_weight), (content_scorer, content_weight)]
            return quality(split, HybridScorer(parts))

        weights = (0.0, *grids.weights)
        content_alone = max(weights, key=lambda weight: hybrid_quality(0.0, weight))
        best_ials = max(weights, key=lambda weight: hybrid_quality(weight, content_alone))
        best_content = max(weights, key=lambda weight: hybrid_quality(best_ials, weight))
        chosen = replace(
            chosen,
            tf_idf_tau=recency.recency_tau,
            hybrid_weight=content_alone,
            hybrid_of_three_weights=(best_ials, best_content),
        )
    log.info("baselines_tuned", **{name: str(value) for name, value in vars(chosen).items()})
    return chosen


def _best_learner(
    learners: Iterable[Learner], taus: Sequence[float], split: EvalSplit, quality: Quality
) -> tuple[Learner, WithRecency, HistoryScorer]:
    """The best learner without recency, the best learner with recency, and the latter's scorer."""
    plain: dict[float, Learner] = {}
    with_recency: dict[float, WithRecency] = {}
    best: tuple[float, HistoryScorer] | None = None  # keeps a single scorer: EASE on 12,000 items takes half a gigabyte
    for learner in learners:
        fitted = learner.fit(split.known)
        for tau in (None, *taus):
            scorer = replace(fitted, recency_tau=tau)
            value = quality(split, scorer)
            if tau is None:
                plain.setdefault(value, learner)
                continue
            with_recency.setdefault(value, WithRecency(learner, tau))
            if best is None or value > best[0]:
                best = value, scorer
    if best is None:
        raise ValueError("no learner to choose from")
    return plain[max(plain)], with_recency[max(with_recency)], best[1]


def _sampled(split: EvalSplit, num_users: int) -> EvalSplit:
    """The split for at most `num_users` of its users, drawn with a fixed seed."""
    positions = np.sort(np.random.default_rng(0).permutation(len(split.users))[:num_users])
    counts = np.diff(split.target_offsets)
    targets = np.flatnonzero(np.isin(np.repeat(np.arange(len(split.users)), counts), positions))
    return replace(
        split,
        users=split.users[positions],
        target_offsets=np.concatenate([[0], np.cumsum(counts[positions])]),
        target_rows=split.target_rows[targets],
        target_ratings=split.target_ratings[targets],
    )
