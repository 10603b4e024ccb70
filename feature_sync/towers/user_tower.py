"""Runs a bundle's user tower, which makes vectors from the states of users."""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from feature_sync.towers.checked_tower import CheckedTower
from tandem.contract import names
from tandem.contract.bundle import Bundle
from tandem.contract.features import encode_index, encode_users
from tandem.contract.store import UserState


class UserTower:
    """The user tower of one bundle, in ONNX Runtime."""

    def __init__(self, bundle: Bundle, *, threads: int | None = None) -> None:
        """Opens the tower, for all cores unless `threads` is given, because publishing is bulk work. Raises
        TowerError."""
        if threads is None:
            threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 0
        self._tower = CheckedTower(bundle.user_tower, threads=threads)
        self._bundle = bundle

    def vectors(self, user_ids: Sequence[str], states: Sequence[UserState]) -> npt.NDArray[np.float32]:
        """Vectors of users, (users, dim) float32. Raises TowerError."""
        bundle = self._bundle
        shape = (len(states), bundle.manifest.embedding_dim)
        if not states:
            return np.empty(shape, dtype=np.float32)
        user_index = None
        if bundle.user_vocabulary is not None:
            user_index = encode_index(bundle.user_vocabulary.rows(user_ids))
        inputs = encode_users(
            states,
            schema=bundle.manifest.feature_schema,
            item_vocabulary=bundle.item_vocabulary,
            item_vectors=bundle.item_vectors,
            user_index=user_index,
        )
        return self._tower.run(inputs, names.USER_VECTOR, shape)
