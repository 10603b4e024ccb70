"""Chooses on validation what a linear source is fitted with, before any blend is tried.

The values are searched one kind after the other, each from the middle of its list: a closed form takes seconds, and all
combinations would take as many times longer as the lists are long.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Final, Protocol

import numpy as np
import numpy.typing as npt
import structlog
from scipy import sparse

from tandem.contract.item_item import ItemItem
from tandem.contract.vocabulary import MISSING_ROW
from trainer.dataset.dataset import Dataset
from trainer.models.ease import LinearItems
from trainer.sources.base.strongest import strongest

log = structlog.get_logger()

_ENOUGH: Final = 0.99
"""Fewer weights are kept if they reach this share of the best quality: every worker holds them, and adds them up."""

Values = Mapping[str, float]


class FitTrial(Protocol):
    """Validation users to try weights between items on."""

    @property
    def dataset(self) -> Dataset:
        """All interactions; those after `num_events` are not to be learned from."""
        ...

    @property
    def num_events(self) -> npt.NDArray[np.int64]:
        """(users,) int64, number of each user's events before the validation."""
        ...

    def qualities(self, learned: LinearItems, decays_events: Sequence[float]) -> list[float]:
        """Mean of the deciding metric with these weights, and histories decayed by each of `decays_events`."""
        ...


def least_neighbours(
    trial: FitTrial, learned: LinearItems, tried: Sequence[int], decays_events: Sequence[float]
) -> int:
    """The lowest number of weights kept for each item that is as good as the best, within one per cent."""
    if len(tried) == 1:
        return tried[0]
    found = {count: max(trial.qualities(_only(strongest(learned, count), learned), decays_events)) for count in tried}
    return min(count for count, quality in found.items() if quality >= _ENOUGH * max(found.values()))


def search(tried: Mapping[str, Sequence[float]], quality: Callable[[Values], float], *, source: str) -> Values:
    """The best values of each kind in `tried`, by `quality`, beginning in the middle of each list; `source` is for the
    log."""
    current = {kind: middle(values) for kind, values in tried.items()}
    found: dict[tuple[float, ...], float] = {}
    for kind, values in tried.items():
        candidates = [{**current, kind: value} for value in values]
        for candidate in candidates:
            key = tuple(candidate.values())
            if key not in found:
                found[key] = quality(candidate)
        current = max(candidates, key=lambda candidate: found[tuple(candidate.values())])
    log.info("source_settled", source=source, **current, tried=[(*key, round(q, 4)) for key, q in found.items()])
    return current


def middle(values: Sequence[float]) -> float:
    """The middle of a list, which stands for it where nothing was chosen; the higher one of two."""
    return values[len(values) // 2]


def _only(kept: ItemItem, learned: LinearItems) -> LinearItems:
    """The weights that are kept, among zeros."""
    rows = kept.rows[learned.items]
    present = rows != MISSING_ROW
    counts = present.sum(axis=1)
    columns = np.searchsorted(learned.items, rows[present])
    shape = (len(learned.items), len(learned.items))
    weights = kept.weights[learned.items][present].astype(np.float32)
    matrix = sparse.csr_matrix((weights, columns, np.concatenate([[0], np.cumsum(counts)])), shape=shape)
    return replace(learned, weights=matrix.toarray())
