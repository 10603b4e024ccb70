"""Fits the sequential source: the strongest weights of the sequential linear model, or counts in a large catalogue."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from tandem.contract.item_item import ItemItem
from trainer.config.train_config import SequentialConfig
from trainer.dataset.dataset import Dataset
from trainer.models.ease import LinearItems
from trainer.models.item_knn import similarities_of_followers
from trainer.models.sequential import sequential_products, sequential_weights, weights_of_products
from trainer.sources.base.settling import FitTrial, Values, least_neighbours, middle, search
from trainer.sources.base.strongest import strongest, strongest_of_ranges

Weights = npt.NDArray[np.float32]


def fit_sequential(
    dataset: Dataset,
    num_events: npt.NDArray[np.int64],
    config: SequentialConfig,
    *,
    choice_weights: Weights | None = None,
) -> ItemItem:
    """Learns from the first `num_events[u]` events of each user, (users,) int64; `choice_weights`, (events,) float32,
    say how much each event counts as the next item, 1 by default. Of a list in `config`, the middle value holds.

    Above `config.max_items`, counts of the items that follow take the place of the closed form, which inverts a matrix
    as wide as the catalogue, at cubic cost.
    """
    known, weights = _known(dataset, num_events, choice_weights)
    num_neighbours, decay_events = int(middle(config.num_neighbours)), middle(config.decays_events)
    if len(dataset.catalogue) > config.max_items:
        num_neighbours = min(config.num_neighbours)
        ranges = similarities_of_followers(known, decay_events, config.shrinkage, num_neighbours)
        return strongest_of_ranges(ranges, num_items=len(dataset.catalogue), num_neighbours=num_neighbours)
    learned = sequential_weights(known, decay_events=decay_events, l2=middle(config.l2), event_weights=weights)
    return strongest(learned, num_neighbours)


def settle_sequential(
    trial: FitTrial, config: SequentialConfig, *, choice_weights: Weights | None = None
) -> SequentialConfig:
    """The configuration with the values that validation chooses, each list searched from its middle."""
    is_settled = len(config.l2) == len(config.decays_events) == len(config.num_neighbours) == 1
    if is_settled or len(trial.dataset.catalogue) > config.max_items:
        return config
    known, weights = _known(trial.dataset, trial.num_events, choice_weights)
    items = np.unique(known.item_rows)
    products: dict[float, tuple[npt.NDArray[np.floating], npt.NDArray[np.floating]]] = {}

    def learned(values: Values) -> LinearItems:
        decay_events = values["decay_events"]
        if decay_events not in products:
            products.clear()  # each pair takes twice the memory of the weights
            products[decay_events] = sequential_products(known, items, decay_events=decay_events, event_weights=weights)
        return weights_of_products(items, *products[decay_events], l2=values["l2"], num_items=len(known.catalogue))

    def quality(values: Values) -> float:
        return trial.qualities(learned(values), [values["decay_events"]])[0]

    chosen = search({"decay_events": config.decays_events, "l2": config.l2}, quality, source="sequential")
    kept = least_neighbours(trial, learned(chosen), config.num_neighbours, [chosen["decay_events"]])
    return config.model_copy(
        update={"decays_events": (chosen["decay_events"],), "l2": (chosen["l2"],), "num_neighbours": (kept,)}
    )


def _known(
    dataset: Dataset, num_events: npt.NDArray[np.int64], choice_weights: Weights | None
) -> tuple[Dataset, Weights | None]:
    """The first events of each user, and how much each of them counts."""
    if choice_weights is None:
        return dataset.first_events(num_events), None
    known = replace(dataset, weights=choice_weights).first_events(num_events)
    return known, known.weights
