"""Inputs of the item tower, in training and afterwards."""

from __future__ import annotations

import numpy as np
import pytest

from tandem.contract import names
from tandem.contract.features import FeatureSchema
from tandem.contract.item_features import encode_item_index, encode_items, item_text
from tandem.contract.vocabulary import MISSING_ROW

SCHEMA = FeatureSchema(
    history_length=1, item_categories=("Drama", "War"), max_item_categories=2, text_encoder="minilm", text_dim=3
)


@pytest.mark.parametrize(
    ("title", "description", "categories", "text"),
    [
        ("Heat", "Two men.", ("Crime", "Drama"), "Heat. Crime, Drama. Two men."),
        ("Heat", "", (), "Heat"),
        ("", "Two men.", ("Crime",), "Crime. Two men."),
        ("", "", ("Crime",), ""),
        ("", "", (), ""),
    ],
)
def test_text(title: str, description: str, categories: tuple[str, ...], text: str) -> None:
    assert item_text(title, description, categories) == text


def test_an_item_nobody_chose_and_one_that_is_new_read_the_unknown_row() -> None:
    index = encode_item_index(np.array([0, 5, MISSING_ROW]), np.array([3, 0, 0]))
    assert index.dtype == np.int64
    assert index.tolist() == [1, 0, 0]


def test_tensors_follow_the_schema() -> None:
    given = {
        "item_index": np.array([1, 0]),
        "text_embeddings": np.ones((2, 3), np.float32),
        "categories": [["War"], ["Western", "Drama"]],
    }
    tensors = encode_items(schema=SCHEMA, **given)  # type: ignore[arg-type]
    assert list(tensors) == [names.ITEM_INDEX, names.TEXT_EMBEDDING, names.CATEGORY_CODES]
    assert tensors[names.CATEGORY_CODES].tolist() == [[2, 0], [1, 0]]
    assert tensors[names.TEXT_EMBEDDING].shape == (2, 3)
    assert list(encode_items(schema=FeatureSchema(history_length=1), **given)) == [names.ITEM_INDEX]  # type: ignore[arg-type]
