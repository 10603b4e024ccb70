"""Inputs of the item tower, the same for the training catalogue and for items that are added later."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from tandem.contract import names
from tandem.contract.features import FeatureSchema, Tensors, encode_category_codes, encode_index
from tandem.contract.vocabulary import MISSING_ROW, Rows


def item_text(title: str, description: str, categories: Sequence[str]) -> str:
    """Input of the text encoder for an item: title, categories, description; empty without title and description."""
    if not title and not description:
        return ""
    return ". ".join(part for part in (title, ", ".join(categories), description) if part)


def encode_item_index(rows: Rows, popularity: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Id inputs of the item tower from rows and numbers of training interactions: (n,) -> (n,) int64.

    An item without interactions shares the out-of-vocabulary id with items that are added after training (MISSING_ROW):
    an id of its own would only learn that the item is never chosen.
    """
    return encode_index(np.where(popularity > 0, rows, MISSING_ROW))


def encode_items(
    *,
    schema: FeatureSchema,
    item_index: npt.NDArray[np.int64],
    text_embeddings: npt.NDArray[np.float32],
    categories: Sequence[Sequence[str]],
) -> Tensors:
    """Inputs of the item tower for a batch of items.

    `item_index` is (items,) int64 from `encode_item_index`; `text_embeddings` is (items, text_dim) float32, zero for an
    item without text.

    Returns item_index (items,) int64; text_embedding (items, text_dim) float32 and category_codes (items,
    max_item_categories) int64 if the schema has them.
    """
    tensors: Tensors = {names.ITEM_INDEX: item_index}
    if schema.text_dim:
        tensors[names.TEXT_EMBEDDING] = text_embeddings
    if schema.item_categories and schema.max_item_categories:
        tensors[names.CATEGORY_CODES] = encode_category_codes(categories, schema)
    return tensors
