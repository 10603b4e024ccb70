"""The feature schema of a data set, and the inputs of the item tower for its whole catalogue."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from tandem.contract.features import (
    DEFAULT_TEXT_MAX_TOKENS,
    HISTORY_FEATURES,
    FeatureSchema,
    Tensors,
    UserFeature,
)
from tandem.contract.item_features import encode_item_index, encode_items, item_text
from trainer.config.train_config import TrainConfig
from trainer.core.errors import DataError
from trainer.dataset.dataset import Catalogue, Dataset

MAX_CATEGORIES = 2_000
"""Categories with an embedding of their own: the most frequent ones."""
MAX_FEATURE_VALUES = 500
"""Values of one categorical user feature with an embedding of their own: the most frequent ones."""
MAX_BUCKETS = 8
"""Buckets of a numeric user feature, cut at quantiles."""


def build_schema(dataset: Dataset, config: TrainConfig, *, text_dim: int) -> FeatureSchema:
    """Decides from the data which features there are and how they are coded.

    Raises DataError when a user feature of the data has the name of one that is derived from the history.
    """
    if taken := sorted({feature.name for feature in HISTORY_FEATURES} & set(dataset.feature_names)):
        raise DataError(f"user feature {taken[0]}: this name is kept for a feature derived from the history; rename it")
    categories = Counter(name for item in dataset.catalogue.categories for name in item)
    most_of_one_item = max((len(item) for item in dataset.catalogue.categories), default=0)
    return FeatureSchema(
        history_length=config.towers.history_length,
        user_features=(
            *(user_feature(name, dataset.user_features) for name in dataset.feature_names),
            *(HISTORY_FEATURES if config.towers.history_features else ()),
        ),
        item_categories=tuple(sorted(name for name, _ in categories.most_common(MAX_CATEGORIES))),
        max_item_categories=min(most_of_one_item, config.towers.max_item_categories),
        text_encoder=config.text.encoder if text_dim else "",
        text_dim=text_dim,
        text_max_tokens=config.text.max_tokens if text_dim else DEFAULT_TEXT_MAX_TOKENS,
        user_ids=config.towers.user_ids,
    )


def user_feature(name: str, users: Sequence[Mapping[str, str]]) -> UserFeature:
    """Numeric when every value is a number and there are more of them than buckets, else categorical."""
    values = Counter(user[name] for user in users if name in user)
    numbers = [_number(value) for value in values.elements()]
    if len(values) > MAX_BUCKETS and None not in numbers:
        cuts = np.quantile(np.array(numbers, dtype=np.float64), np.linspace(0, 1, MAX_BUCKETS + 1)[1:-1])
        return UserFeature(name, boundaries=tuple(float(cut) for cut in np.unique(cuts)))
    return UserFeature(name, values=tuple(sorted(value for value, _ in values.most_common(MAX_FEATURE_VALUES))))


def catalogue_texts(catalogue: Catalogue) -> list[str]:
    """What the text encoder reads of every item, in row order; empty where there is nothing to read."""
    return [
        item_text(title, description, categories)
        for title, description, categories in zip(
            catalogue.titles, catalogue.descriptions, catalogue.categories, strict=True
        )
    ]


def item_inputs(
    catalogue: Catalogue,
    schema: FeatureSchema,
    *,
    text_embeddings: npt.NDArray[np.float32],
    popularity: npt.NDArray[np.int64],
) -> Tensors:
    """Inputs of the item tower for every catalogue item, in row order; see `encode_items`.

    `text_embeddings` is (items, text_dim), `popularity` (items,) the interactions the towers may learn from.
    """
    return encode_items(
        schema=schema,
        item_index=encode_item_index(np.arange(len(catalogue)), popularity),
        text_embeddings=text_embeddings,
        categories=catalogue.categories,
    )


def _number(value: str) -> float | None:
    try:
        return float(value)
    except ValueError:
        return None
