"""Runs a bundle's user tower: states of users in, their vectors out.

This is the only module of feature_sync that imports onnxruntime.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from feature_sync.errors import UserTowerError
from tandem.contract import names
from tandem.contract.bundle import Bundle
from tandem.contract.features import encode_index, encode_users
from tandem.contract.store import UserState


class UserTower:
    """The user tower of one bundle, in ONNX Runtime on every core: publishing is bulk work."""

    def __init__(self, bundle: Bundle) -> None:
        """Opens the tower. Raises UserTowerError."""
        options = ort.SessionOptions()
        options.intra_op_num_threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 0
        options.log_severity_level = 3
        try:
            self._session = ort.InferenceSession(
                bundle.user_tower, sess_options=options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # onnxruntime's exceptions share no base; each means that the file cannot be run
            raise UserTowerError(f"{bundle.user_tower} cannot be opened: {error}") from error
        self._bundle = bundle

    def vectors(self, user_ids: Sequence[str], states: Sequence[UserState]) -> npt.NDArray[np.float32]:
        """Vectors of users, (users, dim) float32. Raises UserTowerError."""
        bundle = self._bundle
        if not states:
            return np.empty((0, bundle.manifest.embedding_dim), dtype=np.float32)
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
        try:
            (vectors,) = self._session.run([names.USER_VECTOR], inputs)
        except Exception as error:  # as above: the input's names, types or shapes do not fit the file
            raise UserTowerError(f"the user tower of {bundle.manifest.model_version} failed: {error}") from error
        expected_shape = (len(states), bundle.manifest.embedding_dim)
        if vectors.shape != expected_shape or not np.isfinite(vectors).all():
            raise UserTowerError(
                f"the user tower of {bundle.manifest.model_version} answered {vectors.shape} for {expected_shape}, "
                "or values that are not finite"
            )
        return np.asarray(vectors, dtype=np.float32)
