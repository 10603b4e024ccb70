"""Fits the item-item source: the strongest weights of EDLAE, or nearest neighbours in a large catalogue."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt
from scipy import sparse

from tandem.contract.item_item import ItemItem
from trainer.config.train_config import ItemItemConfig
from trainer.dataset.dataset import Dataset
from trainer.features.interaction_matrix import interaction_matrix
from trainer.models.ease import CoOccurrence
from trainer.models.item_knn import similarities_of_items
from trainer.sources.base.settling import FitTrial, Values, least_neighbours, middle, search
from trainer.sources.base.strongest import strongest, strongest_of_ranges


def fit_item_item(
    dataset: Dataset,
    num_events: npt.NDArray[np.int64],
    config: ItemItemConfig,
    *,
    choice_weights: npt.NDArray[np.float32] | None = None,
) -> ItemItem | None:
    """Learns from the first `num_events[u]` events of each user, (users,) int64; `choice_weights`, (events,) float32,
    are the entries of the matrix of interactions, 1 by default. Of a list in `config`, the middle value holds.

    Returns None above `config.max_items`: EDLAE inverts a matrix as wide as the catalogue, at cubic cost.
    """
    if len(dataset.catalogue) > config.max_items:
        return None
    counted = CoOccurrence.of(_matrix(dataset, num_events, choice_weights))
    learned = counted.weights(middle(config.l2), dropout=middle(config.dropout))
    return strongest(learned, int(middle(config.num_neighbours)))


def fit_item_knn(
    dataset: Dataset,
    num_events: npt.NDArray[np.int64],
    config: ItemItemConfig,
    *,
    choice_weights: npt.NDArray[np.float32] | None = None,
) -> ItemItem:
    """As `fit_item_item`, for catalogues of any size: each item keeps its nearest items by cosine with shrinkage."""
    num_neighbours = min(config.num_neighbours)
    ranges = similarities_of_items(_matrix(dataset, num_events, choice_weights), config.shrinkage, num_neighbours)
    return strongest_of_ranges(ranges, num_items=len(dataset.catalogue), num_neighbours=num_neighbours)


def settle_item_item(
    trial: FitTrial, config: ItemItemConfig, *, choice_weights: npt.NDArray[np.float32] | None = None
) -> ItemItemConfig:
    """The configuration with the values that validation chooses, each with the best of the decays."""
    is_settled = len(config.l2) == len(config.dropout) == len(config.num_neighbours) == 1
    if is_settled or len(trial.dataset.catalogue) > config.max_items:
        return config
    counted = CoOccurrence.of(_matrix(trial.dataset, trial.num_events, choice_weights))

    def quality(values: Values) -> float:
        learned = counted.weights(values["l2"], dropout=values["dropout"])
        return max(trial.qualities(learned, config.decays_events))

    chosen = search({"l2": config.l2, "dropout": config.dropout}, quality, source="item_item")
    best = counted.weights(chosen["l2"], dropout=chosen["dropout"])
    kept = least_neighbours(trial, best, config.num_neighbours, config.decays_events)
    return config.model_copy(update={"l2": (chosen["l2"],), "dropout": (chosen["dropout"],), "num_neighbours": (kept,)})


def _matrix(
    dataset: Dataset, num_events: npt.NDArray[np.int64], choice_weights: npt.NDArray[np.float32] | None
) -> sparse.csr_matrix:
    if choice_weights is None:
        return interaction_matrix(dataset.first_events(num_events))
    weighed = replace(dataset, weights=choice_weights).first_events(num_events)
    learned = weighed.subset(weighed.weights > 0.0)
    return interaction_matrix(learned, event_weights=learned.weights)
