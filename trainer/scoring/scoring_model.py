"""The scoring parts of a model: the same for a freshly trained model and for a bundle of any age."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from tandem.contract.bundle import Bundle
from tandem.contract.features import FeatureSchema, Tensors, encode_index, encode_users
from tandem.contract.manifest import BlendSpec
from tandem.contract.ranking import blend
from tandem.contract.store import UserState
from tandem.contract.vocabulary import MISSING_ROW, Rows, Vocabulary
from trainer.dataset.dataset import Cut, Dataset, history_states
from trainer.sources.all_sources import blended_sources, read_sources
from trainer.sources.base.source import (
    BlendedSource,
    FittedBlendedSource,
    FittedSource,
    Histories,
    Share,
    Shares,
    unweighted,
)

UserVectors = Callable[[Tensors], npt.NDArray[np.float32]]
"""Runs a user tower: inputs of a batch -> (users, dim) float32."""
_BATCH_USERS = 1_024


@dataclass(frozen=True, kw_only=True)
class ScoringModel:
    """Item vectors in the rows of the model's own vocabulary, the user tower, and the sources."""

    schema: FeatureSchema
    item_vocabulary: Vocabulary
    user_vocabulary: Vocabulary | None
    item_vectors: npt.NDArray[np.float32]
    """(items, dim) float32."""
    user_vectors: UserVectors
    sources: Mapping[str, FittedSource] = field(default_factory=dict)
    """Sources of candidates beside the two towers, by name."""
    unavailable_rows: Rows = field(default_factory=lambda: np.empty(0, np.int64))
    """(n,) int64, items that are not candidates."""

    @classmethod
    def of_bundle(cls, bundle: Bundle, user_vectors: UserVectors) -> ScoringModel:
        """A bundle as it is served; `user_vectors` runs its user tower."""
        return cls(
            schema=bundle.manifest.feature_schema,
            item_vocabulary=bundle.item_vocabulary,
            user_vocabulary=bundle.user_vocabulary,
            item_vectors=bundle.item_vectors,
            user_vectors=user_vectors,
            sources=read_sources(bundle),
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

    def histories(self, states: Sequence[UserState]) -> Histories:
        """Histories of users in these states, in the model's rows."""
        return Histories(states, self.item_vocabulary)

    def blended_source(self, source: BlendedSource) -> FittedBlendedSource:
        """The model's fitted source of the blend. Raises ValueError if the model does not have the source."""
        if source.name not in self.sources:
            raise ValueError(f"the blend has {source.label}, but the model does not")
        fitted = self.sources[source.name]
        assert isinstance(fitted, FittedBlendedSource)
        return fitted


class EncodedUsers:
    """Vectors of a cut's users, computed once for any number of blends. They take the memory of a user embedding."""

    def __init__(self, dataset: Dataset, cut: Cut, model: ScoringModel) -> None:
        """Runs the user tower over all users of the cut."""
        self._positions = np.zeros(len(dataset.user_ids), dtype=np.int64)
        self._positions[cut.users] = np.arange(len(cut.users))
        self._vectors = np.empty((len(cut.users), model.item_vectors.shape[1]), dtype=np.float32)
        for start in range(0, len(cut.users), _BATCH_USERS):
            users = cut.users[start : start + _BATCH_USERS]
            states = history_states(dataset, cut, users)
            self._vectors[start : start + len(users)] = vectors_of_users(dataset, users, states, model)

    def vectors_of(self, users: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        """Users of the cut, (n,) int64 rows -> (n, dim) float32."""
        vectors: npt.NDArray[np.float32] = self._vectors[self._positions[users]]
        return vectors


def vectors_of_users(
    dataset: Dataset,
    users: npt.NDArray[np.int64],
    states: Sequence[UserState],
    model: ScoringModel,
    encoded_users: EncodedUsers | None = None,
) -> npt.NDArray[np.float32]:
    """Vectors of users in these states, (n, dim) float32; `users` is (n,) int64 rows.

    `encoded_users`, if given, has the vectors, and the user tower does not run.
    """
    if encoded_users is not None:
        return encoded_users.vectors_of(users)
    return model.vectors_of([dataset.user_ids[user] for user in users], states)


class BlendedScores:
    """Scores of all items of a data set by a model's two towers and by any of its blends.

    The model may be older than the data: an item that it does not know is -inf.
    """

    def __init__(self, model: ScoringModel, items: Vocabulary, blends: Sequence[BlendSpec | None]) -> None:
        """`items` are the rows to score; None among `blends` is the two towers alone.

        Raises ValueError for a blend of a source that the model does not have.
        """
        self._model = model
        self._blends = blends
        self._num_items = len(items)
        rows = model.item_vocabulary.rows_of_keys(items.keys)
        self._known = np.flatnonzero(rows != MISSING_ROW)
        model_rows = rows[self._known]
        self._item_vectors = model.item_vectors[model_rows]
        self._shares = [{} if spec is None else shares_of(spec) for spec in blends]
        self._sources = {
            source.key: model.blended_source(source).scores(model_rows)
            for source in blended_sources()
            if any(source.key in shares for shares in self._shares)
        }

    def __call__(
        self, user_vectors: npt.NDArray[np.float32], states: Sequence[UserState]
    ) -> Iterator[npt.NDArray[np.float32]]:
        """Yields for each blend a new (users, items) float32 array of the scores of users in these states.

        `user_vectors`, (users, dim), come from `ScoringModel.vectors_of`.
        """
        two_tower = user_vectors @ self._item_vectors.T
        histories = self._model.histories(states)
        source_scores: dict[tuple[str, Share], npt.NDArray[np.float32]] = {}
        for spec, shares in zip(self._blends, self._shares, strict=True):
            for key, share in shares.items():
                if (key, unweighted(share)) not in source_scores:
                    source_scores[key, unweighted(share)] = self._sources[key](histories, share)
            scores = np.full((len(states), self._num_items), -np.inf, dtype=np.float32)
            by_key = {key: source_scores[key, unweighted(share)] for key, share in shares.items()}
            scores[:, self._known] = two_tower if spec is None else _blended(two_tower, by_key, spec)
            yield scores


def shares_of(spec: BlendSpec) -> Shares:
    """The shares that a calibrated blend gives its sources, by source key."""
    found = {source.key: source.share_of(spec) for source in blended_sources()}
    return {key: share for key, share in found.items() if share is not None}


def _blended(
    two_tower: npt.NDArray[np.float32], by_key: Mapping[str, npt.NDArray[np.float32]], spec: BlendSpec
) -> npt.NDArray[np.float32]:
    scores = {source.key: by_key.get(source.key) for source in blended_sources()}
    return blend(two_tower, spec=spec, **scores)
