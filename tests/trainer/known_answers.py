"""Splits and scorers with known answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from tests.trainer.small_dataset import dataset_of
from trainer.dataset.eval_split import EvalSplit


class Table:
    """Scores from a table, (users, items)."""

    def __init__(self, table: npt.ArrayLike) -> None:
        self.table = np.asarray(table, dtype=np.float32)

    def scores(self, users: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        return self.table[users]


def split_of(known: Sequence[Sequence[int]], targets: Mapping[int, Sequence[int]], *, num_items: int) -> EvalSplit:
    """A split of users with the known item rows `known`; `targets` are the target rows of the evaluated users."""
    return EvalSplit(
        name="test",
        known=dataset_of(known, num_items=num_items),
        users=np.array(list(targets), dtype=np.int64),
        target_offsets=np.concatenate([[0], np.cumsum([len(rows) for rows in targets.values()])]).astype(np.int64),
        target_rows=np.array([row for rows in targets.values() for row in rows], dtype=np.int64),
        target_ratings=np.full(sum(map(len, targets.values())), np.nan, dtype=np.float32),
    )
