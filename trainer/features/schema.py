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
from tandem.contract.numbers import finite_number
from trainer.config.train_config import TrainConfig
from trainer.core.errors import DataError
from trainer.data.missing import is_missing_number
from trainer.dataset.dataset import Catalogue, Dataset

MAX_CATEGORIES = 2_000
"""Most categories with an embedding of their own: the most frequent categories."""
MAX_FEATURE_VALUES = 500
"""Most values of a categorical user feature with an embedding of their own: the most frequent values."""
MAX_BUCKETS = 8
"""Buckets of a numeric user feature, cut at quantiles."""


def build_schema(dataset: Dataset, config: TrainConfig, *, text_dim: int) -> FeatureSchema:
    """Derives the features and their codes from the data.

    Raises DataError if a user feature of the data has the name of a feature that is derived from the history.
    """
    if taken := sorted({feature.name for feature in HISTORY_FEATURES} & set(dataset.feature_names)):
        raise DataError(f"user feature {taken[0]}: the name is reserved for a feature of the history; rename it")
    categories = Counter(name for item in dataset.catalogue.categories for name in item)
    most_categories = max((len(item) for item in dataset.catalogue.categories), default=0)
    return FeatureSchema(
        history_length=config.towers.history_length,
        user_features=(
            *(user_feature(name, dataset.user_features) for name in dataset.feature_names),
            *(HISTORY_FEATURES if config.towers.history_features else ()),
        ),
        item_categories=tuple(sorted(name for name, _ in categories.most_common(MAX_CATEGORIES))),
        max_item_categories=min(most_categories, config.towers.max_item_categories),
        text_encoder=config.text.encoder if text_dim else "",
        text_dim=text_dim,
        text_max_tokens=config.text.max_tokens if text_dim else DEFAULT_TEXT_MAX_TOKENS,
        user_ids=config.towers.user_ids,
    )


def user_feature(name: str, users: Sequence[Mapping[str, str]]) -> UserFeature:
    """The feature `name`: numeric if it has more than MAX_BUCKETS values and all are numbers, else categorical.

    Among numbers, NaN, infinity and a word for "missing" ("NA") are missing values, as if the user had no value.
    """
    values = Counter(user[name] for user in users if name in user)
    numeric = Counter({value: count for value, count in values.items() if not is_missing_number(value)})
    numbers = [finite_number(value) for value in numeric]
    if numbers and None not in numbers:
        values = numeric
    if len(values) > MAX_BUCKETS and None not in numbers:
        found = np.array([finite_number(value) for value in values.elements()], dtype=np.float64)
        cuts = np.quantile(found, np.linspace(0, 1, MAX_BUCKETS + 1)[1:-1])
        return UserFeature(name, boundaries=tuple(float(cut) for cut in np.unique(cuts)))
    return UserFeature(name, values=tuple(sorted(value for value, _ in values.most_common(MAX_FEATURE_VALUES))))


def catalogue_texts(catalogue: Catalogue) -> list[str]:
    """The text encoder's input for every item, in row order; empty for an item without text."""
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

    `text_embeddings` is (items, text_dim); `popularity` is (items,), the interactions that the towers may learn from.
    """
    return encode_items(
        schema=schema,
        item_index=encode_item_index(np.arange(len(catalogue)), popularity),
        text_embeddings=text_embeddings,
        categories=catalogue.categories,
    )
