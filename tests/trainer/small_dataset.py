"""A handmade data set in memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from tandem.contract.names import EVENT_CODES
from tandem.contract.vocabulary import Vocabulary
from trainer.dataset.dataset import Catalogue, Dataset


def dataset_of(histories: Sequence[Sequence[int]], *, num_items: int) -> Dataset:
    """A data set of users who chose the given item rows in this order, one minute apart."""
    ids = [f"i{row}" for row in range(num_items)]
    lengths = [len(history) for history in histories]
    return Dataset(
        catalogue=Catalogue(
            item_ids=ids,
            titles=[f"title {row}" for row in range(num_items)],
            descriptions=[""] * num_items,
            categories=[["even" if row % 2 == 0 else "odd"] for row in range(num_items)],
            attributes=[{} for _ in range(num_items)],
            vocabulary=Vocabulary.from_ids(ids),
            available=np.ones(num_items, dtype=np.bool_),
        ),
        user_ids=[f"u{user}" for user in range(len(histories))],
        user_features=[{"age": str(20 + user)} for user in range(len(histories))],
        feature_names=("age",),
        offsets=np.concatenate([[0], np.cumsum(lengths)]),
        item_rows=np.array([row for history in histories for row in history], dtype=np.int64),
        event_codes=np.full(sum(lengths), EVENT_CODES["rating"], dtype=np.uint8),
        event_times=np.array(
            [60_000_000 * (1 + minute) for history in histories for minute in range(len(history))], dtype=np.int64
        ),
        ratings=np.full(sum(lengths), np.nan, dtype=np.float32),
        weights=np.ones(sum(lengths), dtype=np.float32),
        pair_types=np.full(sum(lengths), 1 << EVENT_CODES["rating"] - 1, dtype=np.uint8),
    )


def without_items(dataset: Dataset, rows: Sequence[int]) -> Dataset:
    """The data set with the items `rows` unavailable."""
    available = ~np.isin(np.arange(len(dataset.catalogue)), rows)
    return replace(dataset, catalogue=replace(dataset.catalogue, available=available))
