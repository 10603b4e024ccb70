"""Cold items: a tenth of the items is taken out of training, then asked for.

All items of the catalogue are candidates and only cold items are targets, so a model gains nothing from knowing which
items are cold. Both questions have the same known interactions, so one training answers both.
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
"""Share of the items with interactions that is taken out of training."""
COLD_CUTOFF: Final = 50
"""The metric is recall at this cutoff."""


@dataclass(frozen=True, kw_only=True)
class ColdItems:
    """The cold items, and two splits that ask for them; both know all interactions with the other items."""

    rows: Rows
    """(cold,) int64, ascending."""
    all_choices: EvalSplit
    """Targets are all cold items that a user ever chose: the largest sample. A history may then hold events from after
    a target, for all models alike."""
    last_choice: EvalSplit
    """Users whose last choice was a cold item, with only that item as target: the task that sequence models learn."""


def cold_items(dataset: Dataset, *, seed: int = 0) -> ColdItems:
    """Draws COLD_SHARE of the items with interactions, uniformly.

    The splits leave out users without a known event. Raises DataError if no user is left.
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
        all_choices=_cold_split(dataset, known, events, name="cold items, all choices"),
        last_choice=_cold_split(dataset, known, last, name="cold items, last choice"),
    )


def random_recall(split: EvalSplit, cutoff: int = COLD_CUTOFF) -> float:
    """Expected mean recall@cutoff of a random order of each user's candidates: min(cutoff / candidates, 1)."""
    known = split.known
    num_seen = [len(known.seen_rows(user, int(known.lengths[user]))) for user in split.users.tolist()]
    num_candidates = len(known.catalogue) - np.array(num_seen)
    return float(np.minimum(cutoff / num_candidates, 1.0).mean())


def _cold_split(dataset: Dataset, known: Dataset, events: npt.NDArray[np.int64], *, name: str) -> EvalSplit:
    users, counts = np.unique(dataset.user_rows[events], return_counts=True)
    return EvalSplit(
        name=name,
        known=known,
        users=users,
        target_offsets=np.concatenate([[0], np.cumsum(counts)]),
        target_rows=dataset.item_rows[events],
        target_ratings=dataset.ratings[events],
    )
