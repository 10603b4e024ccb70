"""All baselines for a data set, with their hyperparameters: the rows that a model is compared with."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from trainer.baselines.baseline import Baseline
from trainer.baselines.content import Content, DenseContent, SparseContent
from trainer.baselines.ease import Ease
from trainer.baselines.histories import FitOnce, HistoryBaseline, WithRecency
from trainer.baselines.hybrid import Hybrid
from trainer.baselines.ials import IALS
from trainer.baselines.item_knn import ItemKNN
from trainer.baselines.popularity import Popularity
from trainer.baselines.rating_svd import RatingSVD
from trainer.dataset.dataset import Catalogue, Dataset
from trainer.features.content import tf_idf

DEFAULT_TAU = 8.0
"""In events: about this many of the newest events count."""


@dataclass(frozen=True, kw_only=True)
class Choices:
    """Hyperparameters that validation may choose (see `trainer.baselines.tuning`); defaults apply without it."""

    item_knn: ItemKNN = field(default_factory=ItemKNN)
    item_knn_recency: WithRecency = field(default_factory=lambda: WithRecency(ItemKNN(), DEFAULT_TAU))
    ease: Ease = field(default_factory=Ease)
    ease_recency: WithRecency = field(default_factory=lambda: WithRecency(Ease(), DEFAULT_TAU))
    ials: IALS = field(default_factory=IALS)
    ials_recency: WithRecency = field(default_factory=lambda: WithRecency(IALS(), DEFAULT_TAU))
    tf_idf_tau: float = DEFAULT_TAU
    text_tau: float = DEFAULT_TAU
    hybrid_weight: float = 0.3
    """Weight of TF-IDF; EASE+recency has 1."""
    hybrid_of_three_weights: tuple[float, float] = (0.3, 0.3)
    """Weights of iALS+recency and TF-IDF; EASE+recency has 1."""


def all_baselines(
    dataset: Dataset, text_embeddings: npt.NDArray[np.float32], choices: Choices | None = None
) -> list[Baseline]:
    """Every baseline that the data allow; baselines with the same learner share its fit.

    `text_embeddings` is (items, text_dim), where text_dim 0 means none. Without ratings there is no SVD of ratings,
    without content no content baseline and no hybrid.
    """
    chosen = choices or Choices()
    learners: dict[HistoryBaseline, HistoryBaseline] = {}

    def once(learner: HistoryBaseline) -> HistoryBaseline:
        return learners.setdefault(learner, FitOnce(learner))

    def recency_once(recency: WithRecency) -> WithRecency:
        return WithRecency(once(recency.baseline), recency.recency_tau)

    ease, ials = recency_once(chosen.ease_recency), recency_once(chosen.ials_recency)
    baselines: list[Baseline] = [
        Popularity(),
        once(chosen.item_knn),
        recency_once(chosen.item_knn_recency),
        once(chosen.ease),
        ease,
        once(chosen.ials),
        ials,
    ]
    if not np.isnan(dataset.ratings).all():
        baselines.append(RatingSVD())
    if (text := text_content(text_embeddings)) is not None:
        baselines += [text, WithRecency(text, chosen.text_tau)]
    if (words := tf_idf_content(dataset.catalogue)) is not None:
        content = WithRecency(words, chosen.tf_idf_tau)
        ials_weight, content_weight = chosen.hybrid_of_three_weights
        baselines += [
            words,
            content,
            Hybrid(parts=((ease, 1.0), (content, chosen.hybrid_weight))),
            Hybrid(parts=((ease, 1.0), (ials, ials_weight), (content, content_weight))),
        ]
    return baselines


def tf_idf_content(catalogue: Catalogue) -> Content | None:
    """Content baseline on words and categories; None if the catalogue has no usable term."""
    terms = tf_idf(catalogue)
    return Content(name="TF-IDF", similarities=SparseContent(terms)) if terms.shape[1] else None


def text_content(text_embeddings: npt.NDArray[np.float32]) -> Content | None:
    """Content baseline on text embeddings, (items, text_dim) float32; None if all of them are 0."""
    return (
        Content(name="Text embeddings", similarities=DenseContent(text_embeddings)) if text_embeddings.any() else None
    )
