"""Items that nobody has chosen yet: a tenth of the items is taken out of training, then asked for.

All items of the catalogue are candidates and only the cold ones count as targets, so a model gains nothing from knowing
which items are cold. Two questions come from one set of known interactions, so that one training answers both.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from tandem.contract.vocabulary import Rows
from trainer.core.errors import DataError
from trainer.dataset.dataset import Dataset
from trainer.dataset.eval_split import EvalSplit

COLD_SHARE: Final = 0.1
"""Share of the items with interactions that is taken out."""
COLD_CUTOFF: Final = 50
"""The metric is recall at this cutoff."""


@dataclass(frozen=True, kw_only=True)
class ColdItems:
    """The cold items and what is asked of them. Both splits have one `known`: all interactions with other items."""

    rows: Rows
    """(cold,) int64, ascending."""
    all_choices: EvalSplit
    """Targets are all cold items that a user chose at any time, which is the most that can be measured. The history may
    then hold events that came after a target, alike for all models."""
    last_choice: EvalSplit
    """Users whose last choice was a cold item, and that item alone: what a model of sequences is made for."""


def cold_items(dataset: Dataset, *, seed: int = 0) -> ColdItems:
    """Draws COLD_SHARE of the items that have interactions, uniformly.

    Only users with a known event are asked. Raises DataError where nobody can be asked.
    """
    chosen_rows = np.unique(dataset.item_rows)
    generator = np.random.default_rng(seed)
    num_cold = round(COLD_SHARE * len(chosen_rows))
    rows = np.sort(generator.choice(chosen_rows, num_cold, replace=False))
    is_cold = np.isin(dataset.item_rows, rows)
    known = dataset.subset(~is_cold)
    events = np.flatnonzero(is_cold & (known.lengths > 0)[dataset.user_rows])
    if len(events) == 0:
        raise DataError(f"no user chose both one of the {num_cold} cold items and another item; bring more data")
    last = events[events == dataset.offsets[dataset.user_rows[events] + 1] - 1]
    return ColdItems(
        rows=rows,
        all_choices=_split_of(dataset, known, events, name="cold items, all choices"),
        last_choice=_split_of(dataset, known, last, name="cold items, last choice"),
    )


def random_recall(split: EvalSplit, cutoff: int = COLD_CUTOFF) -> float:
    """Expected mean recall@cutoff of a random order of each user's candidates: cutoff / candidates, at most 1."""
    num_candidates = len(split.known.catalogue) - split.known.lengths[split.users]
    return float(np.minimum(cutoff / num_candidates, 1.0).mean())


def _split_of(dataset: Dataset, known: Dataset, events: npt.NDArray[np.int64], *, name: str) -> EvalSplit:
    users, counts = np.unique(dataset.user_rows[events], return_counts=True)
    return EvalSplit(
        name=name,
        known=known,
        users=users,
        target_offsets=np.concatenate([[0], np.cumsum(counts)]),
        target_rows=dataset.item_rows[events],
        target_ratings=dataset.ratings[events],
    )
