"""Growth of a model: known items, users and codes keep the rows of the earlier model, and new rows follow them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from tandem.contract.features import FeatureSchema, UserFeature
from tandem.contract.vocabulary import Vocabulary
from trainer.core.errors import ConfigError
from trainer.dataset.dataset import Catalogue, Dataset
from trainer.features.schema import MAX_CATEGORIES, MAX_FEATURE_VALUES

_ITEM_IDS: Final = "item_tower.id_embedding.weight"
_OUT_OF_VOCABULARY: Final = 0
_Value = TypeVar("_Value")


def with_earlier_items(dataset: Dataset, earlier: Catalogue) -> Dataset:
    """The data set with the items of `earlier` first, in their order, then its new items, in the data set's order.

    The data set's description of an item replaces the earlier description. An item that the data set no longer has
    stays, so that no row moves, and is unavailable.
    """
    current = dataset.catalogue
    order = _merged(earlier.item_ids, current.item_ids)
    rows = {item_id: row for row, item_id in enumerate(current.item_ids)}
    earlier_rows = {item_id: row for row, item_id in enumerate(earlier.item_ids)}

    def merged(values: Sequence[_Value], earlier_values: Sequence[_Value]) -> list[_Value]:
        return [
            values[rows[item_id]] if item_id in rows else earlier_values[earlier_rows[item_id]] for item_id in order
        ]

    vocabulary = Vocabulary.from_ids(order)
    catalogue = Catalogue(
        item_ids=order,
        titles=merged(current.titles, earlier.titles),
        descriptions=merged(current.descriptions, earlier.descriptions),
        categories=merged(current.categories, earlier.categories),
        attributes=merged(current.attributes, earlier.attributes),
        vocabulary=vocabulary,
        available=np.array(
            [item_id in rows and bool(current.available[rows[item_id]]) for item_id in order], dtype=np.bool_
        ),
    )
    return replace(dataset, catalogue=catalogue, item_rows=vocabulary.rows(current.item_ids)[dataset.item_rows])


def with_earlier_users(dataset: Dataset, earlier: Sequence[str]) -> Dataset:
    """The data set with the users of `earlier` first, in their order, then its new users, in the data set's order.

    A user that the data set no longer has stays, without events and features.
    """
    order = _merged(earlier, dataset.user_ids)
    rows = {user_id: row for row, user_id in enumerate(dataset.user_ids)}
    sources = np.array([rows.get(user_id, -1) for user_id in order], dtype=np.int64)
    new_rows = np.empty(len(rows), dtype=np.int64)
    new_rows[sources[sources >= 0]] = np.flatnonzero(sources >= 0)
    lengths = np.where(sources >= 0, dataset.lengths[sources], 0)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    within = np.arange(offsets[-1]) - np.repeat(offsets[:-1], lengths)
    events = np.repeat(dataset.offsets[:-1][sources], lengths) + within
    return replace(
        dataset,
        user_ids=order,
        user_features=[dataset.user_features[row] if row >= 0 else {} for row in sources],
        offsets=offsets,
        item_rows=dataset.item_rows[events],
        event_codes=dataset.event_codes[events],
        event_times=dataset.event_times[events],
        ratings=dataset.ratings[events],
        weights=dataset.weights[events],
        pair_types=dataset.pair_types[events],
        low_rated=dataset.low_rated.with_users(new_rows),
    )


def extended_schema(earlier: FeatureSchema, current: FeatureSchema) -> FeatureSchema:
    """`current` with the codes of `earlier`: every code keeps its meaning; new categories, values and features follow.

    Buckets of numeric features stay as they were cut.
    """
    features = {feature.name: feature for feature in current.user_features}
    known = tuple(_extended_feature(feature, features.pop(feature.name, feature)) for feature in earlier.user_features)
    return replace(
        current,
        user_features=(*known, *features.values()),
        item_categories=_extended(earlier.item_categories, current.item_categories, MAX_CATEGORIES),
        max_item_categories=max(earlier.max_item_categories, current.max_item_categories),
    )


def grown_weights(weights: Mapping[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """The state of `model` with `weights` in it; embeddings of `model` may have more rows.

    A new item begins as the out-of-vocabulary row, with which it was served until now: training drops item ids to that
    row, so that it stands for any item. New categories, users and feature values begin at zero, where they add nothing.
    Parts that only `model` has keep their state.

    Raises ConfigError if a width differs.
    """
    state = model.state_dict()
    for name, fresh in state.items():
        old = weights.get(name)
        if old is None:
            continue
        if old.dim() != fresh.dim() or old.shape[1:] != fresh.shape[1:] or len(old) > len(fresh):
            raise ConfigError(f"warm start: {name} is {tuple(old.shape)}, this configuration has {tuple(fresh.shape)}")
        old = old.to(fresh.device)
        first = old[_OUT_OF_VOCABULARY] if name == _ITEM_IDS else torch.zeros_like(old[0])
        state[name] = torch.cat([old, first.expand(len(fresh) - len(old), *old.shape[1:])])
    return state


def _merged(earlier: Sequence[str], current: Sequence[str]) -> list[str]:
    known = set(earlier)
    return [*earlier, *(value for value in current if value not in known)]


def _extended(earlier: tuple[str, ...], current: tuple[str, ...], most: int) -> tuple[str, ...]:
    """The values of `earlier`, then new values of `current` up to `most` values in all."""
    return tuple(_merged(earlier, current)[: max(most, len(earlier))])


def _extended_feature(earlier: UserFeature, current: UserFeature) -> UserFeature:
    if earlier.boundaries or current.boundaries:
        return earlier
    return replace(earlier, values=_extended(earlier.values, current.values, MAX_FEATURE_VALUES))
