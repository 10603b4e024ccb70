"""All baselines for a data set, with their hyperparameters: the rows that a model is compared with."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from trainer.baselines.content import Content, DenseContent, SparseContent
from trainer.baselines.ease import Ease
from trainer.baselines.histories import FitOnce, HistoryBaseline, WithRecency
from trainer.baselines.ials import IALS
from trainer.baselines.item_knn import ItemKNN
from trainer.baselines.popularity import Popularity
from trainer.baselines.rating_svd import RatingSVD
from trainer.dataset import Dataset
from trainer.evaluation.scorer import Baseline
from trainer.features.content import tf_idf


@dataclass(frozen=True, kw_only=True)
class Choices:
    """Hyperparameters that validation may choose (see `trainer.baselines.tuning`); the defaults do without."""

    item_knn: ItemKNN = ItemKNN()
    item_knn_recency: WithRecency = WithRecency(ItemKNN(), 5.0)
    ease: Ease = Ease()
    ease_recency: WithRecency = WithRecency(Ease(), 5.0)
    ials: IALS = IALS()
    ials_recency: WithRecency = WithRecency(IALS(), 5.0)
    content_tau: float = 10.0
    """The tau of every content-based baseline."""
    tf_idf_weight: float = 0.3
    """Of TF-IDF in both hybrids, where EASE+recency has 1."""
    ials_weight: float = 0.3
    """Of iALS+recency in the hybrid of three."""


@dataclass(frozen=True, kw_only=True)
class ItemContent:
    """What content-based baselines know of the items: (items, any width) float32, of length 1 or zero."""

    tf_idf: HistoryBaseline | None
    """None for a catalogue without words and categories, or where all items have the same."""
    text: HistoryBaseline | None
    """None without text embeddings."""


def item_content(dataset: Dataset, text_embeddings: npt.NDArray[np.float32]) -> ItemContent:
    """Content-based baselines; `text_embeddings` is (items, text_dim), where text_dim 0 means none."""
    terms = tf_idf(dataset.catalogue)
    return ItemContent(
        tf_idf=Content(name="TF-IDF", similarities=SparseContent(terms)) if terms.nnz else None,
        text=Content(name="Text embeddings", similarities=DenseContent(text_embeddings))
        if text_embeddings.any()
        else None,
    )


def all_baselines(
    dataset: Dataset, text_embeddings: npt.NDArray[np.float32], choices: Choices | None = None
) -> list[Baseline]:
    """Every baseline that the data allow, weakest kind first; those that learn the same learn it once.

    Without ratings there is no SVD of ratings, without content no content-based baseline and no hybrid with it.
    """
    chosen = choices or Choices()
    content = item_content(dataset, text_embeddings)
    once = {learner: FitOnce(learner) for learner in _learners(chosen)}
    ease, ials = (
        WithRecency(once[recency.baseline], recency.recency_tau)
        for recency in (chosen.ease_recency, chosen.ials_recency)
    )
    baselines: list[Baseline] = [Popularity()]
    if not np.isnan(dataset.ratings).all():
        baselines.append(RatingSVD())
    content_based = [
        WithRecency(baseline, chosen.content_tau) for baseline in (content.text, content.tf_idf) if baseline is not None
    ]
    baselines += content_based
    return baselines
