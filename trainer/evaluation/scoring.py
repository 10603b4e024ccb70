"""What a model scores with, alike for a model that was just trained and for a bundle of any age."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tandem.contract.bundle import Bundle
from tandem.contract.features import FeatureSchema, Tensors, encode_histories, encode_index, encode_users
from tandem.contract.ranking import content_profiles
from tandem.contract.store import UserState
from tandem.contract.vocabulary import Vocabulary

UserVectors = Callable[[Tensors], npt.NDArray[np.float32]]
"""Runs a user tower: inputs of a batch -> (users, dim) float32."""


@dataclass(frozen=True, kw_only=True)
class ScoringModel:
    """Vectors of items in the rows of the model's own vocabulary, and the way to vectors of users."""

    schema: FeatureSchema
    item_vocabulary: Vocabulary
    user_vocabulary: Vocabulary | None
    item_vectors: npt.NDArray[np.float32]
    """(items, dim) float32."""
    user_vectors: UserVectors
    content_vectors: npt.NDArray[np.float16] | None
    """(items, content_dim) float16; None where nothing is known of any item."""

    @classmethod
    def of_bundle(cls, bundle: Bundle, user_vectors: UserVectors) -> ScoringModel:
        """A bundle as it is served; `user_vectors` runs its user tower."""
        return cls(
            schema=bundle.manifest.feature_schema,
            item_vocabulary=bundle.item_vocabulary,
            user_vocabulary=bundle.user_vocabulary,
            item_vectors=bundle.item_vectors,
            user_vectors=user_vectors,
            content_vectors=None if bundle.content is None else bundle.content.vectors,
        )

    def vectors_of(self, user_ids: Sequence[str], states: Sequence[UserState]) -> npt.NDArray[np.float32]:
        """Vectors of users in these states, as serving makes them: (users, dim) float32."""
        tensors = encode_users(
            states,
            schema=self.schema,
            item_vocabulary=self.item_vocabulary,
            item_vectors=self.item_vectors,
            user_index=None if self.user_vocabulary is None else encode_index(self.user_vocabulary.rows(user_ids)),
        )
        return self.user_vectors(tensors)

    def profiles_of(self, states: Sequence[UserState]) -> npt.NDArray[np.float32]:
        """Content profiles of users in these states, as serving makes them: (users, content_dim) float32.

        Raises ValueError for a model without content.
        """
        if self.content_vectors is None:
            raise ValueError("a model without content has no content profiles")
        history = encode_histories(states, self.item_vocabulary, self.schema.history_length)
        return content_profiles(self.content_vectors, history.rows)
