"""Scores of the sources that know pairs of items, for the users of a batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tandem.contract import names
from tandem.contract.bundle import Bundle
from tandem.contract.item_item import ItemItem, item_item_scores, num_events_read
from tandem.contract.manifest import ItemItemSpec
from tandem.contract.vocabulary import Rows


@dataclass(frozen=True)
class LinearSource:
    """The item-item or the sequential source of a bundle."""

    weights: ItemItem
    spec: ItemItemSpec

    @property
    def num_events(self) -> int:
        """Number of newest events that the source reads."""
        return num_events_read(self.spec.decay_events)


def linear_sources(bundle: Bundle) -> Mapping[str, LinearSource]:
    """The sources that the bundle's blend has, by name."""
    blend = bundle.manifest.blend
    if blend is None:
        return {}
    parts = (
        (names.SOURCE_ITEM_ITEM, bundle.item_item, blend.item_item),
        (names.SOURCE_SEQUENTIAL, bundle.sequential, blend.sequential),
    )
    return {
        name: LinearSource(weights, spec) for name, weights, spec in parts if weights is not None and spec is not None
    }


class LinearScores:
    """The histories of a batch of users, and the scores that each source gives them. A source that proposes items by
    their scores has computed all of them, and ranking takes them from there."""

    def __init__(
        self, sources: Mapping[str, LinearSource], history_rows: Rows, older_rows: Sequence[Rows] = ()
    ) -> None:
        """`history_rows` is (users, events) int64; `older_rows`, (n,) int64 for each user or nothing at all, are the
        items before them: see `item_item.item_item_scores`."""
        self._sources = sources
        self._history_rows = history_rows
        self._older_rows = older_rows
        self._of_all_items: dict[str, npt.NDArray[np.float32]] = {}

    def of_all_items(self, name: str) -> npt.NDArray[np.float32]:
        """Scores of the bundle's items by one source: (users, items) float32."""
        if name not in self._of_all_items:
            self._of_all_items[name] = self._scores(name, slice(None), None)
        return self._of_all_items[name]

    def of_rows(self, name: str, group: slice | list[int], rows: Rows) -> npt.NDArray[np.float32]:
        """Scores of `rows`, (users, candidates) int64, for the users of a group, by their indices in the batch."""
        if name in self._of_all_items:
            return np.take_along_axis(self._of_all_items[name][group], rows, axis=1)
        return self._scores(name, group, rows)

    def history_of(self, name: str) -> list[Rows]:
        """Items that a source need not propose, because they are in the history that it reads: (n,) int64 for each
        user, and MISSING_ROW."""
        source = self._sources[name]
        newest = list(self._history_rows[:, -source.num_events :])
        if not (source.spec.whole_history and self._older_rows):
            return newest
        return [np.concatenate(both) for both in zip(newest, self._older_rows, strict=True)]

    def _scores(self, name: str, group: slice | list[int], rows: Rows | None) -> npt.NDArray[np.float32]:
        source = self._sources[name]
        older: Sequence[Rows] = ()
        if source.spec.whole_history and self._older_rows:
            older = self._older_rows[group] if isinstance(group, slice) else [self._older_rows[i] for i in group]
        return item_item_scores(
            source.weights, self._history_rows[group], source.spec.decay_events, rows, older_rows=older
        )
