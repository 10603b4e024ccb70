"""Fits the item-item source: the strongest weights of EASE, `num_neighbours` for each item."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt
from scipy import sparse

from tandem.contract.item_item import ItemItem
from tandem.contract.vocabulary import MISSING_ROW
from trainer.config.train_config import ItemItemConfig
from trainer.dataset.dataset import Dataset
from trainer.features.interaction_matrix import interaction_matrix
from trainer.models.ease import ease_weights

_BATCH_ITEMS = 1_024


def fit_item_item(
    dataset: Dataset,
    num_events: npt.NDArray[np.int64],
    config: ItemItemConfig,
    *,
    choice_weights: npt.NDArray[np.float32] | None = None,
) -> ItemItem | None:
    """Learns from the first `num_events[u]` events of each user, (users,) int64; `choice_weights`, (events,) float32,
    are the entries of the matrix of interactions, 1 by default.

    Returns None above `config.max_items`: EASE inverts a matrix as wide as the catalogue, at cubic cost.
    """
    num_items = len(dataset.catalogue)
    if num_items > config.max_items:
        return None
    learned = ease_weights(_matrix(dataset, num_events, choice_weights), config.l2)
    width = min(config.num_neighbours, len(learned.items))
    rows = np.full((num_items, width), MISSING_ROW, dtype=np.int32)
    weights = np.zeros((num_items, width), dtype=np.float16)
    for start in range(0, len(learned.items), _BATCH_ITEMS):
        batch = slice(start, start + _BATCH_ITEMS)
        item_weights = learned.weights[batch]
        strongest = np.argpartition(-np.abs(item_weights), width - 1, axis=1)[:, :width]
        kept = np.take_along_axis(item_weights, strongest, axis=1).astype(np.float16)
        order = np.argsort(-kept, axis=1, kind="stable")
        kept = np.take_along_axis(kept, order, axis=1)
        neighbours = learned.items[np.take_along_axis(strongest, order, axis=1)]
        weights[learned.items[batch]] = kept
        rows[learned.items[batch]] = np.where(kept == 0, MISSING_ROW, neighbours)
    return ItemItem(rows, weights)


def _matrix(
    dataset: Dataset, num_events: npt.NDArray[np.int64], choice_weights: npt.NDArray[np.float32] | None
) -> sparse.csr_matrix:
    if choice_weights is None:
        return interaction_matrix(dataset.first_events(num_events))
    weighed = replace(dataset, weights=choice_weights).first_events(num_events)
    learned = weighed.subset(weighed.weights > 0.0)
    return interaction_matrix(learned, event_weights=learned.weights)
