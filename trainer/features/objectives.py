"""How much each choice counts in training: the sum of the weights of the objectives that it meets.

A pair of user and item that was clicked and bought meets both. The loss is then the weighted sum of one loss for each
objective, all of one model: the objectives do not have heads of their own.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from tandem.contract.names import EVENT_TYPES
from trainer.config.train_config import ObjectivesConfig
from trainer.core.errors import DataError
from trainer.dataset.dataset import Dataset, HoldOut

Weights = npt.NDArray[np.float32]


def choice_weights(dataset: Dataset, objectives: ObjectivesConfig) -> Weights | None:
    """(events,) float32 with mean 1, the weight of each event as a choice to learn; None if all count alike.

    Raises DataError if no event meets an objective.
    """
    if not objectives.by_type:
        return None
    weights = np.zeros(len(dataset.item_rows), dtype=np.float64)
    for bit, name in enumerate(EVENT_TYPES):
        weights += objectives.by_type.get(name, 0.0) * (dataset.pair_types >> bit & 1)
    if not weights.any():
        raise DataError(f"no interaction of the data meets an objective: {', '.join(objectives.by_type)}")
    scaled: Weights = (weights / weights.mean()).astype(np.float32)
    return scaled


def target_weights(dataset: Dataset, hold_out: HoldOut, objectives: ObjectivesConfig) -> Weights | None:
    """(evaluated,) float32, the weights of the held-out choices; None if all count alike, as they do where `dataset`
    does not hold them.

    Raises DataError if no held-out choice meets an objective.
    """
    weights = choice_weights(dataset, objectives)
    if weights is None:
        return None
    num_items = len(dataset.catalogue)
    pairs = dataset.user_rows * num_items + dataset.item_rows
    order = np.argsort(pairs)
    wanted = hold_out.users * num_items + hold_out.target_rows
    found = order[np.minimum(np.searchsorted(pairs[order], wanted), len(order) - 1)]
    if not np.array_equal(pairs[found], wanted):
        return None
    if not weights[found].any():
        raise DataError(f"no choice of a validation user meets an objective: {', '.join(objectives.by_type)}")
    of_targets: Weights = weights[found]
    return of_targets
