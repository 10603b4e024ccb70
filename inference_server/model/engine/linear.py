"""Scores of the sources that know pairs of items, for the users of a batch."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import numpy.typing as npt

from tandem.contract import names
from tandem.contract.bundle import Bundle
from tandem.contract.item_item import ItemItem, item_item_scores, num_events_read
from tandem.contract.manifest import ItemItemSpec
from tandem.contract.vocabulary import Rows

_KEPT_BYTES: Final = 1 << 24
"""Scores of users with long histories that a worker keeps for each source that reads whole histories."""


@dataclass(frozen=True)
class LinearSource:
    """The item-item or the sequential source of a bundle."""

    weights: ItemItem
    spec: ItemItemSpec
    kept: OrderedDict[bytes, npt.NDArray[np.float32]] = field(default_factory=OrderedDict, compare=False)
    """(items,) float32 scores by whole history, the latest used last: a history of a thousand items takes a millisecond
    to add up, and is the same until the user's next event."""

    @property
    def num_events(self) -> int:
        """Number of newest events that the source reads."""
        return num_events_read(self.spec.decay_events)

    def keep(self, history: bytes, scores: npt.NDArray[np.float32]) -> None:
        """Keeps the scores of a whole history, and drops those that were not used for the longest time."""
        self.kept[history] = scores
        if len(self.kept) * scores.nbytes > _KEPT_BYTES:
            self.kept.popitem(last=False)


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
            whole = self._sources[name].spec.whole_history and len(self._older_rows) > 0
            self._of_all_items[name] = self._with_kept(name) if whole else self._scores(name, slice(None), None)
        return self._of_all_items[name]

    def of_rows(self, name: str, group: slice | list[int], rows: Rows) -> npt.NDArray[np.float32]:
        """Scores of `rows`, (users, candidates) int64, for the users of a group, by their indices in the batch."""
        if name in self._of_all_items or self._sources[name].spec.whole_history:
            return np.take_along_axis(self.of_all_items(name)[group], rows, axis=1)
        return self._scores(name, group, rows)

    def history_of(self, name: str) -> list[Rows]:
        """Items that a source need not propose, because they are in the history that it reads: (n,) int64 for each
        user, and MISSING_ROW."""
        source = self._sources[name]
        newest = list(self._history_rows[:, -source.num_events :])
        if not (source.spec.whole_history and self._older_rows):
            return newest
        return [np.concatenate(both) for both in zip(newest, self._older_rows, strict=True)]

    def _with_kept(self, name: str) -> npt.NDArray[np.float32]:
        """Scores of all items, those of long histories from the last request that had the same history."""
        source = self._sources[name]
        keys = [
            newest.tobytes() + older.tobytes() if len(older) else b""
            for newest, older in zip(self._history_rows, self._older_rows, strict=True)
        ]
        unknown = [user for user, key in enumerate(keys) if key not in source.kept]
        scores = np.empty((len(keys), len(source.weights.rows)), dtype=np.float32)
        if unknown:
            scores[unknown] = self._scores(name, unknown, None)
        for user in set(range(len(keys))).difference(unknown):
            source.kept.move_to_end(keys[user])
            scores[user] = source.kept[keys[user]]
        for user in unknown:
            if keys[user]:
                source.keep(keys[user], scores[user].copy())
        return scores

    def _scores(self, name: str, group: slice | list[int], rows: Rows | None) -> npt.NDArray[np.float32]:
        source = self._sources[name]
        older: Sequence[Rows] = ()
        if source.spec.whole_history and self._older_rows:
            older = self._older_rows[group] if isinstance(group, slice) else [self._older_rows[i] for i in group]
        return item_item_scores(
            source.weights, self._history_rows[group], source.spec.decay_events, rows, older_rows=older
        )
