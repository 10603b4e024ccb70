"""What a model scores with, alike for a model that was just trained and for a bundle of any age."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from tandem.contract.bundle import Bundle
from tandem.contract.features import FeatureSchema, Tensors, encode_histories, encode_index, encode_users
from tandem.contract.item_item import ItemItem, item_item_scores, num_events_read
from tandem.contract.manifest import BlendSpec
from tandem.contract.ranking import PROFILE_EVENTS, blend, content_profiles
from tandem.contract.store import UserState
from tandem.contract.vocabulary import MISSING_ROW, Rows, Vocabulary
from trainer.dataset.dataset import Cut, Dataset, history_states

UserVectors = Callable[[Tensors], npt.NDArray[np.float32]]
"""Runs a user tower: inputs of a batch -> (users, dim) float32."""
_BATCH_USERS = 1_024


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
    item_item: ItemItem | None = None
    """The item-item source, in the model's rows; None where there is none."""
    unavailable_rows: Rows = field(default_factory=lambda: np.empty(0, np.int64))
    """(n,) int64, items that are no candidates."""

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
            item_item=bundle.item_item,
            unavailable_rows=bundle.items.unavailable_rows,
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
        history = encode_histories(states, self.item_vocabulary, PROFILE_EVENTS)
        return content_profiles(self.content_vectors, history.rows)

    def item_item_scores_of(self, states: Sequence[UserState], decay_events: float) -> npt.NDArray[np.float32]:
        """Scores of the item-item source for users in these states, as serving makes them: (users, items) float32.

        Raises ValueError for a model without that source.
        """
        if self.item_item is None:
            raise ValueError("a model without the item-item source has no such scores")
        history = encode_histories(states, self.item_vocabulary, num_events_read(decay_events))
        return item_item_scores(self.item_item, history.rows, decay_events)


class EncodedUsers:
    """Vectors of a cut's users, made once for any number of blends. They take as much memory as a user embedding."""

    def __init__(self, dataset: Dataset, cut: Cut, model: ScoringModel) -> None:
        """Runs the user tower over all users of the cut."""
        self._places = np.zeros(len(dataset.user_ids), dtype=np.int64)
        self._places[cut.users] = np.arange(len(cut.users))
        self._vectors = np.empty((len(cut.users), model.item_vectors.shape[1]), dtype=np.float32)
        for start in range(0, len(cut.users), _BATCH_USERS):
            users = cut.users[start : start + _BATCH_USERS]
            states = history_states(dataset, cut, users)
            self._vectors[start : start + len(users)] = vectors_of_users(dataset, users, states, model)

    def vectors_of(self, users: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        """Users of the cut, (n,) int64 rows -> (n, dim) float32."""
        vectors: npt.NDArray[np.float32] = self._vectors[self._places[users]]
        return vectors


def vectors_of_users(
    dataset: Dataset,
    users: npt.NDArray[np.int64],
    states: Sequence[UserState],
    model: ScoringModel,
    encoded_users: EncodedUsers | None = None,
) -> npt.NDArray[np.float32]:
    """Vectors of users in these states, (n, dim) float32; those of `encoded_users` where there are any, so that the
    user tower does not run. `users` is (n,) int64 rows."""
    if encoded_users is not None:
        return encoded_users.vectors_of(users)
    return model.vectors_of([dataset.user_ids[user] for user in users], states)


class BlendedScores:
    """Scores of all items of a data set by a model's two towers and by any of its blends.

    The model may be older than the data: an item it does not know is -inf.
    """

    def __init__(self, model: ScoringModel, items: Vocabulary, blends: Sequence[BlendSpec | None]) -> None:
        """`items` are the rows to score; None among `blends` is the two towers alone.

        Raises ValueError for a blend of what the model does not have.
        """
        for spec in blends:
            if spec is not None and spec.content is not None and model.content_vectors is None:
                raise ValueError("a model without content has none to blend")
            if spec is not None and spec.item_item is not None and model.item_item is None:
                raise ValueError("a model without the item-item source has none to blend")
        self._model = model
        self._blends = blends
        self._num_items = len(items)
        rows = model.item_vocabulary.rows_of_keys(items.keys)
        self._known = np.flatnonzero(rows != MISSING_ROW)
        self._model_rows = rows[self._known]
        self._item_vectors = model.item_vectors[self._model_rows]
        self._content_vectors = None
        if model.content_vectors is not None and any(spec is not None and spec.content for spec in blends):
            self._content_vectors = model.content_vectors[self._model_rows].astype(np.float32)

    def __call__(
        self, user_vectors: npt.NDArray[np.float32], states: Sequence[UserState]
    ) -> Iterator[npt.NDArray[np.float32]]:
        """(users, items) float32 of its own for each of the blends, for users in these states.

        `user_vectors`, (users, dim), are those of `ScoringModel.vectors_of`.
        """
        two_tower = user_vectors @ self._item_vectors.T
        content = None
        if self._content_vectors is not None:
            content = self._model.profiles_of(states) @ self._content_vectors.T
        item_item: dict[float, npt.NDArray[np.float32]] = {}
        for spec in self._blends:
            of_source = None
            if spec is not None and spec.item_item is not None:
                decay = spec.item_item.decay_events
                if decay not in item_item:
                    item_item[decay] = self._model.item_item_scores_of(states, decay)[:, self._model_rows]
                of_source = item_item[decay]
            scores = np.full((len(states), self._num_items), -np.inf, dtype=np.float32)
            scores[:, self._known] = two_tower if spec is None else blend(two_tower, content, spec, of_source)
            yield scores
