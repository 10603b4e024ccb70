"""The sparse matrix of interactions: the input of every method that knows items only by their users.

The only module of the trainer that builds this matrix, so that all methods count repeated pairs alike.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy import sparse

from trainer.dataset.dataset import Dataset


def interaction_matrix(
    dataset: Dataset, *, event_weights: npt.NDArray[np.float32] | None = None, recency_tau: float | None = None
) -> sparse.csr_matrix:
    """(users, items) float32 CSR with sorted columns: 1 for each pair that occurs, or its weight.

    `event_weights`, (events,) float32, are positive. `recency_tau` multiplies each event by exp(-age / recency_tau),
    where age is the number of newer events of its user: 0 for the newest. A pair that occurs more than once gets its
    largest weight.
    """
    weights = np.ones(len(dataset.item_rows), dtype=np.float32) if event_weights is None else event_weights
    if recency_tau is not None:
        weights = weights * np.exp(-event_ages(dataset) / np.float32(recency_tau))
    user_rows = dataset.user_rows
    order = np.lexsort((weights, dataset.item_rows, user_rows))
    users, items = user_rows[order], dataset.item_rows[order]
    last_of_pair = np.ones(len(order), dtype=np.bool_)
    last_of_pair[:-1] = (users[1:] != users[:-1]) | (items[1:] != items[:-1])
    shape = (len(dataset.user_ids), len(dataset.catalogue))
    counts = np.bincount(users[last_of_pair], minlength=shape[0])
    indptr = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
    columns = items[last_of_pair].astype(np.int32)
    return sparse.csr_matrix((weights[order][last_of_pair].astype(np.float32), columns, indptr), shape=shape)


def event_ages(dataset: Dataset) -> npt.NDArray[np.float32]:
    """(events,) float32, the number of newer events of each event's user."""
    ends = np.repeat(dataset.offsets[1:], dataset.lengths)
    ages: npt.NDArray[np.float32] = (ends - 1 - np.arange(len(dataset.item_rows))).astype(np.float32)
    return ages
