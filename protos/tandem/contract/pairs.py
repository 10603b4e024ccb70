"""The entries of a user's history, each of which may stand for several events of the user with one item.

`event_rule` says which event stands for them. Most entries stand for one event, so a state holds only the others'
counts, see `MERGED`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from tandem.contract import names
from tandem.contract.vocabulary import Keys

MERGED: Final = np.dtype(
    [("position", "<u4"), ("counts", "<u2", (len(names.EVENT_TYPES),)), ("last_time", "<i8")], align=True
)
"""An entry that stands for more than one event: its position in the history, its events by type in the order of
names.EVENT_TYPES, and the time of the last of them, in microseconds. 24 bytes."""
_MAX_COUNT: Final = np.iinfo(np.uint16).max

Merged = npt.NDArray[np.void]
"""(k,) of MERGED, by position."""

NOTHING_MERGED: Final[Merged] = np.empty(0, dtype=MERGED)


@dataclass(frozen=True)
class Entries:
    """Entries of a history, arrays of one length n, each with all events that it stands for."""

    item_keys: Keys
    """(n,) uint64."""
    codes: npt.NDArray[np.uint8]
    """(n,) uint8, of the event that stands for the entry."""
    times: npt.NDArray[np.int64]
    """(n,) int64, of the same event."""
    counts: npt.NDArray[np.int64]
    """(n, 6) int64, events by type."""
    last_times: npt.NDArray[np.int64]
    """(n,) int64, of the last event."""

    @classmethod
    def of(
        cls,
        item_keys: Keys,
        codes: npt.NDArray[np.uint8],
        times: npt.NDArray[np.int64],
        merged: Merged = NOTHING_MERGED,
    ) -> Entries:
        """Entries of one event each, but for those of `merged`."""
        counts = np.zeros((len(codes), len(names.EVENT_TYPES)), dtype=np.int64)
        known = np.flatnonzero(_is_known(codes))
        counts[known, codes[known].astype(np.int64) - 1] = 1
        last_times = times.copy()
        counts[merged["position"]] = merged["counts"]
        last_times[merged["position"]] = merged["last_time"]
        return cls(item_keys, codes, times, counts, last_times)

    def __len__(self) -> int:
        return len(self.item_keys)

    def __getitem__(self, chosen: Any) -> Entries:
        """The entries that an index or mask selects."""
        return Entries(
            self.item_keys[chosen],
            self.codes[chosen],
            self.times[chosen],
            self.counts[chosen],
            self.last_times[chosen],
        )

    @property
    def merged(self) -> Merged:
        """What a state keeps of the counts."""
        positions = np.flatnonzero(self.counts.sum(axis=1) > 1)
        merged = np.zeros(len(positions), dtype=MERGED)
        merged["position"] = positions
        merged["counts"] = np.minimum(self.counts[positions], _MAX_COUNT)
        merged["last_time"] = self.last_times[positions]
        return merged

    @classmethod
    def joined(cls, parts: Sequence[Entries]) -> Entries:
        """The entries of all parts, at least one, in their order."""
        return cls(
            np.concatenate([part.item_keys for part in parts]),
            np.concatenate([part.codes for part in parts]),
            np.concatenate([part.times for part in parts]),
            np.concatenate([part.counts for part in parts]),
            np.concatenate([part.last_times for part in parts]),
        )

    def one_of_each_item(self, strengths: npt.NDArray[np.float64], *, same_events: bool = False) -> Entries:
        """One entry of each item, in the order of their times: the strongest, then the earliest, then the first here.

        `strengths` is (7,) float64 by event code. The entry has the events of all, or, if they are records of the
        `same_events`, the higher counts. Entries without a time (0) stay in their order, before all others.
        """
        by_item = np.lexsort((self.times, -_strength(self.codes, strengths), self.item_keys))
        keys = self.item_keys[by_item]
        starts = np.flatnonzero(np.concatenate([[True], keys[1:] != keys[:-1]]))[: len(keys)]
        standing = by_item[starts]
        counts = (np.maximum if same_events else np.add).reduceat(self.counts[by_item], starts, axis=0)
        last_times = np.maximum.reduceat(self.last_times[by_item], starts)
        in_order = np.argsort(standing)
        in_order = in_order[np.argsort(self.times[standing[in_order]], kind="stable")]
        chosen = standing[in_order]
        return Entries(
            self.item_keys[chosen], self.codes[chosen], self.times[chosen], counts[in_order], last_times[in_order]
        )

    def with_counts_of(self, others: Entries) -> Entries:
        """These entries, whose counts and last times are the higher of theirs and those of the same item in
        `others`: two records of the same events."""
        if not len(others):
            return self
        found = positions_of(self.item_keys, others.item_keys)
        is_same = found >= 0
        counts = np.where(is_same[:, None], np.maximum(self.counts, others.counts[found]), self.counts)
        last_times = np.where(is_same, np.maximum(self.last_times, others.last_times[found]), self.last_times)
        return Entries(self.item_keys, self.codes, self.times, counts, last_times)


def _is_known(codes: npt.NDArray[np.uint8]) -> npt.NDArray[np.bool_]:
    """Whether each code is of a known type: (n,) bool. Other events are weaker than all, and not counted."""
    return (codes > 0) & (codes <= len(names.EVENT_TYPES))


def moved(merged: Merged, order: npt.NDArray[np.int64]) -> Merged:
    """The merged entries in a history that `order`, (m,) int64, takes from the one that they belong to."""
    rows = np.full(int(order.max(initial=-1)) + 1, -1, dtype=np.int64)
    rows[order] = np.arange(len(order))
    known = merged["position"] < len(rows)
    positions = rows[merged["position"][known]]
    kept = merged[known][positions >= 0].copy()
    kept["position"] = positions[positions >= 0]
    in_order: Merged = kept[np.argsort(kept["position"])]
    return in_order


def positions_of(item_keys: Keys, history_keys: Keys) -> npt.NDArray[np.int64]:
    """Positions of items in a history, (n,) int64; -1 for those that it does not have."""
    if not len(history_keys):
        return np.full(len(item_keys), -1, dtype=np.int64)
    order = np.argsort(history_keys, kind="stable")
    found = order[np.minimum(np.searchsorted(history_keys, item_keys, sorter=order), len(order) - 1)]
    return np.where(history_keys[found] == item_keys, found, -1)


def stand(
    codes: npt.NDArray[np.uint8],
    times: npt.NDArray[np.int64],
    later_codes: npt.NDArray[np.uint8],
    later_times: npt.NDArray[np.int64],
    strengths: npt.NDArray[np.float64],
) -> npt.NDArray[np.bool_]:
    """Whether the events `codes` at `times` stand for these others of the same items: (n,) each, (n,) bool."""
    strength, later_strength = _strength(codes, strengths), _strength(later_codes, strengths)
    is_later = np.asarray(later_times >= times)
    return np.asarray((later_strength < strength) | ((later_strength == strength) & is_later), dtype=np.bool_)


def with_counts(
    merged: Merged,
    positions: npt.NDArray[np.int64],
    codes: npt.NDArray[np.uint8],
    times: npt.NDArray[np.int64],
    *,
    history_codes: npt.NDArray[np.uint8],
    history_times: npt.NDArray[np.int64],
) -> Merged:
    """The merged entries of a history after further events of its items, for which its own events stand.

    `positions`, `codes` and `times` are (n,), of the further events.
    """
    touched = np.union1d(merged["position"].astype(np.int64), positions)
    rows = np.zeros(len(touched), dtype=MERGED)
    rows["position"] = touched
    rows["last_time"] = history_times[touched]
    before = np.searchsorted(touched, merged["position"])
    rows[before] = merged
    single = np.setdiff1d(np.arange(len(touched)), before)
    for row, code in zip(single.tolist(), history_codes[touched[single]].tolist(), strict=True):
        if 0 < code <= len(names.EVENT_TYPES):
            rows["counts"][row, code - 1] = 1
    for row, code, time in zip(
        np.searchsorted(touched, positions).tolist(), codes.tolist(), times.tolist(), strict=True
    ):
        rows["counts"][row, code - 1] = min(int(rows["counts"][row, code - 1]) + 1, _MAX_COUNT)
        rows["last_time"][row] = max(int(rows["last_time"][row]), time)
    return rows


def _strength(codes: npt.NDArray[np.uint8], strengths: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    found: npt.NDArray[np.float64] = strengths[np.where(_is_known(codes), codes, 0)]
    return found
