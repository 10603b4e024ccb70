"""Training examples: windows over histories, with the item that followed every event.

A history longer than the tower reads is cut into several windows that do not overlap in their targets, so that no event
is left out. Windows are read through the same function as serving (`tandem.contract.features.encode_histories`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from tandem.contract.features import FeatureSchema, encode_histories, encode_index, encode_user_feature_codes
from tandem.contract.vocabulary import MISSING_ROW
from trainer.dataset import Dataset


@dataclass(frozen=True)
class Windows:
    """Windows, aligned to the right as histories are."""

    history_rows: Tensor
    """(windows, history_length) int64, MISSING_ROW where there is no event."""
    event_codes: Tensor
    """(windows, history_length) int64."""
    ages: Tensor
    """(windows, history_length) float32, seconds."""
    target_rows: Tensor
    """(windows, history_length) int64: the item chosen after each event, MISSING_ROW where there is no event."""
    feature_codes: Tensor
    """(windows, features) int64."""
    user_index: Tensor
    """(windows,) int64."""

    lengths: Tensor
    """(windows,) int64, events of each window."""

    def __len__(self) -> int:
        return len(self.history_rows)


def training_windows(dataset: Dataset, schema: FeatureSchema, num_events: npt.NDArray[np.int64]) -> Windows:
    """Windows over the first `num_events[u]` events of each user, (users,) int64.

    Users with fewer than two events have no target and are left out.
    """
    length = schema.history_length
    # Each window ends at an event whose successor is known; the newest window first, then backwards.
    ends = [(user, end) for user, count in enumerate(num_events.tolist()) for end in range(count - 1, 0, -length)]
    users = np.array([user for user, _ in ends], dtype=np.int64)
    states = [dataset.user_state(user, end) for user, end in ends]
    history = encode_histories(states, dataset.catalogue.vocabulary, length)
    targets = np.full_like(history.rows, MISSING_ROW)
    for place, (user, end) in enumerate(ends):
        count = min(end, length)
        after_newest = int(dataset.offsets[user]) + end + 1
        targets[place, length - count :] = dataset.item_rows[after_newest - count : after_newest]
    return Windows(
        torch.from_numpy(history.rows),
        torch.from_numpy(history.event_codes),
        torch.from_numpy(history.ages),
        torch.from_numpy(targets),
        torch.from_numpy(encode_user_feature_codes([state.features for state in states], schema)),
        torch.from_numpy(encode_index(users)),
        torch.tensor([min(end, length) for _, end in ends], dtype=torch.int64),
    )
