"""Full ranking: the held-out item against every item of the catalogue that the user has not interacted with."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from tandem.contract.bundle import Bundle
from tandem.contract.features import FeatureSchema, Tensors, encode_index, encode_users
from tandem.contract.vocabulary import MISSING_ROW
from trainer.dataset import Dataset, HoldOut, history_states

UserVectors = Callable[[Tensors], npt.NDArray[np.float32]]
"""Runs a user tower: inputs of a batch -> (users, dim) float32."""

BATCH_USERS = 1_024


def ranks_of_targets(
    dataset: Dataset,
    hold_out: HoldOut,
    score_users: Callable[[npt.NDArray[np.int64]], npt.NDArray[np.float32]],
    *,
    seed: int = 0,
) -> npt.NDArray[np.int64]:
    """0-based rank of every held-out item; ties are broken at random, never in favour of the held-out item.

    `score_users` takes places in `hold_out.users`, (n,) int64, and returns (n, items) float32; higher is better.
    Returns (evaluated users,) int64.
    """
    generator = np.random.default_rng(seed)
    ranks = np.empty(len(hold_out.users), dtype=np.int64)
    for start in range(0, len(ranks), BATCH_USERS):
        places = np.arange(start, min(start + BATCH_USERS, len(ranks)))
        batch = np.array(score_users(places), dtype=np.float32)
        target_scores = batch[np.arange(len(places)), hold_out.target_rows[places]].copy()
        for row, place in enumerate(places):
            user = hold_out.users[place]
            first = dataset.offsets[user]
            batch[row, dataset.item_rows[first : first + hold_out.num_history_events[user]]] = -np.inf
        better = (batch > target_scores[:, None]).sum(axis=1)
        ties = (batch == target_scores[:, None]).sum(axis=1) - 1  # without the held-out item itself
        ranks[places] = better + generator.integers(0, ties + 1)
    return ranks


def two_tower_ranks(
    dataset: Dataset,
    hold_out: HoldOut,
    *,
    schema: FeatureSchema,
    item_vectors: npt.NDArray[np.float32],
    user_vectors: UserVectors,
) -> npt.NDArray[np.int64]:
    """Ranks under two towers, by exact search over (items, dim) float32 vectors. Returns (evaluated users,) int64."""

    def score_users(places: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        users = hold_out.users[places]
        tensors = encode_users(
            history_states(dataset, hold_out, users),
            schema=schema,
            item_vocabulary=dataset.catalogue.vocabulary,
            item_vectors=item_vectors,
            user_index=encode_index(users),
        )
        return np.asarray(user_vectors(tensors) @ item_vectors.T, dtype=np.float32)

    return ranks_of_targets(dataset, hold_out, score_users)


def popularity_ranks(dataset: Dataset, hold_out: HoldOut) -> npt.NDArray[np.int64]:
    """Ranks under popularity in the training part of the hold-out: the baseline every model has to beat."""
    popularity = dataset.popularity(hold_out.num_history_events).astype(np.float32)
    return ranks_of_targets(dataset, hold_out, lambda places: np.tile(popularity, (len(places), 1)))


def bundle_ranks(
    dataset: Dataset, hold_out: HoldOut, bundle: Bundle, user_vectors: UserVectors
) -> npt.NDArray[np.int64]:
    """Ranks under a bundle, which may be older than the data: an item it does not know comes after all it knows.

    `user_vectors` runs the bundle's user tower. Returns (evaluated users,) int64.
    """
    rows_in_bundle = bundle.item_vocabulary.rows_of_keys(dataset.catalogue.vocabulary.keys)
    known = np.flatnonzero(rows_in_bundle != MISSING_ROW)
    item_vectors = bundle.item_vectors[rows_in_bundle[known]]

    def score_users(places: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        users = hold_out.users[places]
        user_rows = (
            bundle.user_vocabulary.rows([dataset.user_ids[u] for u in users]) if bundle.user_vocabulary else None
        )
        tensors = encode_users(
            history_states(dataset, hold_out, users),
            schema=bundle.manifest.feature_schema,
            item_vocabulary=bundle.item_vocabulary,
            item_vectors=bundle.item_vectors,
            user_index=None if user_rows is None else encode_index(user_rows),
        )
        scores = np.full((len(places), len(dataset.catalogue)), -np.inf, dtype=np.float32)
        scores[:, known] = user_vectors(tensors) @ item_vectors.T
        return scores

    return ranks_of_targets(dataset, hold_out, score_users)
