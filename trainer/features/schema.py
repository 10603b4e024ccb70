"""The feature schema of a data set, and the inputs of the item tower for its whole catalogue."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from tandem.contract import names
from tandem.contract.features import (
    HISTORY_FEATURES,
    FeatureSchema,
    Tensors,
    UserFeature,
    encode_category_codes,
    encode_index,
)
from tandem.contract.vocabulary import MISSING_ROW
from trainer.config import TrainConfig
from trainer.dataset import Catalogue, Dataset
from trainer.errors import DataError

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


def item_text(catalogue: Catalogue, row: int) -> str:
    """What the text encoder reads of an item: title, categories, description; empty without title and description."""
    title, description = catalogue.titles[row], catalogue.descriptions[row]
    if not title and not description:
        return ""
    return ". ".join(part for part in (title, ", ".join(catalogue.categories[row]), description) if part)


def item_inputs(
    catalogue: Catalogue,
    schema: FeatureSchema,
    *,
    text_embeddings: npt.NDArray[np.float32],
    popularity: npt.NDArray[np.int64],
) -> Tensors:
    """Inputs of the item tower for every catalogue item, in row order.

    `text_embeddings` is (items, text_dim), `popularity` (items,) the interactions the towers may learn from, see
    `item_index`.

    item_index (items,) int64; text_embedding (items, text_dim) float32 and category_codes (items, max_item_categories)
    int64 where the schema has them.
    """
    tensors: Tensors = {names.ITEM_INDEX: item_index(popularity)}
    if schema.text_dim:
        tensors[names.TEXT_EMBEDDING] = text_embeddings
    if schema.item_categories and schema.max_item_categories:
        tensors[names.CATEGORY_CODES] = encode_category_codes(catalogue.categories, schema)
    return tensors


def item_index(popularity: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """What the item tower reads as each item's id: (items,) int64 interactions -> (items,) int64.

    An item without any reads the out-of-vocabulary row, as an item does that comes after training: an id of its own
    would learn nothing but that it is never chosen.
    """
    return encode_index(np.where(popularity > 0, np.arange(len(popularity)), MISSING_ROW))


def _number(value: str) -> float | None:
    try:
        return float(value)
    except ValueError:
        return None
