"""Training examples: windows over histories, with the item that followed each event.

A history that is longer than the tower reads is cut into several windows whose targets do not overlap, so that no event
is left out. A window holds what `tandem.contract.features.encode_users` makes of the state at its newest event, but for
all windows at once from the data set's flat arrays; a test compares the two.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from tandem.contract.features import (
    HISTORY_FEATURES,
    FeatureSchema,
    encode_index,
    encode_user_feature_codes,
    event_ages,
    history_features,
)
from tandem.contract.store import UserState
from tandem.contract.vocabulary import MISSING_ROW
from trainer.dataset.dataset import Dataset


@dataclass(frozen=True)
class Windows:
    """Windows, aligned to the right like histories."""

    history_rows: Tensor
    """(windows, history_length) int64; MISSING_ROW without an event."""
    event_codes: Tensor
    """(windows, history_length) int64."""
    ages: Tensor
    """(windows, history_length) float32, seconds."""
    target_rows: Tensor
    """(windows, history_length) int64, the item chosen after each event; MISSING_ROW without an event."""
    feature_codes: Tensor
    """(windows, features) int64; (windows, history_length, features) if any feature changes with every event."""
    user_index: Tensor
    """(windows,) int64."""

    lengths: Tensor
    """(windows,) int64, number of events in each window."""
    target_weights: Tensor | None = None
    """(windows, history_length) float32, how much each target counts, 0 without an event; None: all count alike."""

    def __len__(self) -> int:
        return len(self.history_rows)


def training_windows(
    dataset: Dataset,
    schema: FeatureSchema,
    num_events: npt.NDArray[np.int64],
    choice_weights: npt.NDArray[np.float32] | None = None,
) -> Windows:
    """Windows over the first `num_events[u]` events of each user, (users,) int64.

    Users with fewer than two events have no target and are left out. `choice_weights`, (events,) float32, say how much
    each event counts as a target; a window whose targets do not count is left out.
    """
    length = schema.history_length
    users, ends = _window_ends(num_events, length)
    target_weights = None
    if choice_weights is not None:
        target_weights = _target_weights(dataset, choice_weights, users, ends, length)
        counts = target_weights.any(axis=1)
        users, ends, target_weights = users[counts], ends[counts], target_weights[counts]
    # Index of each event in its user's history, below 0 without an event, and in the data set's flat arrays.
    in_history = ends[:, None] - length + np.arange(length)
    present = in_history >= 0
    flat = dataset.offsets[users][:, None] + np.maximum(in_history, 0)
    times = dataset.event_times[flat]
    return Windows(
        torch.from_numpy(np.where(present, dataset.item_rows[flat], MISSING_ROW)),
        torch.from_numpy(np.where(present, dataset.event_codes[flat], 0).astype(np.int64)),
        torch.from_numpy(np.where(present, event_ages(times, times[:, -1:]), 0.0).astype(np.float32)),
        torch.from_numpy(np.where(present, dataset.item_rows[flat + 1], MISSING_ROW)),
        torch.from_numpy(_feature_codes(dataset, schema, users, in_history)),
        torch.from_numpy(encode_index(users)),
        torch.from_numpy(np.minimum(ends, length)),
        None if target_weights is None else torch.from_numpy(target_weights),
    )


def _target_weights(
    dataset: Dataset,
    choice_weights: npt.NDArray[np.float32],
    users: npt.NDArray[np.int64],
    ends: npt.NDArray[np.int64],
    length: int,
) -> npt.NDArray[np.float32]:
    """See `Windows.target_weights`; `users` and `ends` are (windows,) int64."""
    in_history = ends[:, None] - length + np.arange(length)
    flat = dataset.offsets[users][:, None] + np.maximum(in_history, 0)
    return np.where(in_history >= 0, choice_weights[flat + 1], np.float32(0.0))


def _window_ends(num_events: npt.NDArray[np.int64], length: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """User of every window, and number of the user's events up to the window's newest, each (windows,) int64.

    Each window ends at an event whose successor is known. A user's windows go from the newest to the oldest.
    """
    last_end = np.maximum(num_events - 1, 0)
    num_windows = -(-last_end // length)
    users = np.repeat(np.arange(len(num_events)), num_windows)
    first_of_user = np.cumsum(num_windows) - num_windows
    windows_after = np.arange(len(users)) - first_of_user[users]
    return users, last_end[users] - windows_after * length


def _feature_codes(
    dataset: Dataset, schema: FeatureSchema, users: npt.NDArray[np.int64], in_history: npt.NDArray[np.int64]
) -> npt.NDArray[np.int64]:
    """See `Windows.feature_codes`; `users` is (windows,), `in_history` (windows, history_length)."""
    states = [UserState(features=features) for features in dataset.user_features]
    codes = encode_user_feature_codes(states, schema)[users]
    columns = {feature.name: column for column, feature in enumerate(schema.user_features)}
    if not any(feature.name in columns for feature in HISTORY_FEATURES):
        return codes
    flat = dataset.offsets[users][:, None] + np.maximum(in_history, 0)
    has_previous = in_history > 0
    derived = history_features(
        np.maximum(in_history + 1, 0),
        np.where(in_history >= 0, dataset.event_times[flat], 0),
        np.where(has_previous, dataset.event_times[flat - has_previous], 0),
    )
    codes = np.repeat(codes[:, None], in_history.shape[1], axis=1)
    for feature in HISTORY_FEATURES:
        if feature.name in columns:
            codes[..., columns[feature.name]] = feature.codes(derived[feature.name])
    return codes
