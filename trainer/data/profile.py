"""Statistics of a prepared data set: its size, its distributions, and the rows that cleaning dropped.

`prepare` prints them, so an unexpected data set is noticed before a model is trained on it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from tandem.contract.names import EVENT_TYPES
from trainer.data.prepare import PreparedData
from trainer.data.report import DROP_KINDS
from trainer.dataset.dataset import Dataset, load_dataset
from trainer.dataset.inequality import gini_of_counts

HEAD_PERCENTS: Final = (1, 10, 20)
"""Shares of the whole catalogue, in per cent, most popular items first, whose share of interactions is reported."""
HISTORY_QUANTILES: Final = (0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 0.99, 1.0)
_MAX_RATING_VALUES: Final = 20
_NUM_BINS: Final = 10


@dataclass(frozen=True, kw_only=True)
class DataProfile:
    """Statistics of a prepared data set."""

    name: str
    fingerprint: str
    num_users: int
    num_items: int
    num_items_with_interactions: int
    num_interactions: int
    density: float
    """Share of all (user, item) pairs that have an interaction, 0 to 1."""
    head_shares: Mapping[int, float]
    """Per cent of items, most popular first -> their share of interactions, 0 to 1."""
    gini: float
    """Gini coefficient of interactions over items: 0 if all items have equally many, near 1 if one item has all."""
    history_lengths: Mapping[float, int]
    """Quantile -> number of interactions of a user."""
    num_single_users: int
    """Users with one interaction: trained on, never evaluated by leave-last-out."""
    ratings: Mapping[str, int]
    """Rating -> number of interactions; beyond 20 different ratings, ranges of equal width. Empty: no ratings."""
    event_types: Mapping[str, int]
    """Event type -> number of interactions; only types that occur."""
    first_time: str | None
    """ISO 8601, UTC; None if only the order of interactions is known."""
    last_time: str | None
    dropped: Mapping[str, Mapping[str, int]]
    """File ("interactions", "items", "users") -> kind of `report.DROP_KINDS` -> number of rows."""

    def to_dict(self) -> dict[str, Any]:
        """The profile as JSON values."""
        return asdict(self)

    def to_text(self) -> str:
        """The profile as lines of text."""
        lines = [
            f"{self.name}: {self.num_users:,} users, {self.num_items:,} items, {self.num_interactions:,} interactions",
            f"  items with interactions: {self.num_items_with_interactions:,} ({self._share_of_items():.1%})",
            f"  density: {self.density:.4%} of all (user, item), sparsity {1 - self.density:.4%}",
            "  long tail: "
            + ", ".join(f"top {percent} % of items {share:.1%}" for percent, share in self.head_shares.items())
            + f" of interactions; Gini {self.gini:.3f}",
            "  interactions of a user: "
            + ", ".join(f"{_quantile_name(quantile)} {length:,}" for quantile, length in self.history_lengths.items())
            + f"; {self.num_single_users:,} users have one",
            "  event types: " + ", ".join(f"{name} {count:,}" for name, count in self.event_types.items()),
            f"  time: {self.first_time} to {self.last_time}" if self.first_time else "  time: only the order is known",
        ]
        lines += _histogram("  ratings", self.ratings)
        for role, counts in self.dropped.items():
            lines += [f"  dropped of {role}: {count:,} {kind} ({DROP_KINDS[kind]})" for kind, count in counts.items()]
        return "\n".join(lines)

    def _share_of_items(self) -> float:
        return self.num_items_with_interactions / self.num_items


def profile(prepared: PreparedData) -> DataProfile:
    """Computes the statistics of a prepared data set. Raises OSError when its files are unreadable."""
    dataset = load_dataset(prepared.directory)
    popularity = np.sort(np.bincount(dataset.item_rows, minlength=len(dataset.catalogue)))[::-1]
    num_interactions = len(dataset.item_rows)
    lengths = dataset.lengths
    first_time, last_time = _time_range(dataset)
    return DataProfile(
        name=prepared.name,
        fingerprint=prepared.fingerprint,
        num_users=len(lengths),
        num_items=len(popularity),
        num_items_with_interactions=int((popularity > 0).sum()),
        num_interactions=num_interactions,
        density=num_interactions / (len(lengths) * len(popularity)),
        head_shares={percent: _head_share(popularity, percent) for percent in HEAD_PERCENTS},
        gini=gini_of_counts(popularity),
        history_lengths={
            quantile: int(np.quantile(lengths, quantile, method="inverted_cdf")) for quantile in HISTORY_QUANTILES
        },
        num_single_users=int((lengths == 1).sum()),
        ratings=_rating_counts(dataset.ratings),
        event_types={
            name: int(count)
            for name, count in zip(
                EVENT_TYPES,
                np.bincount(dataset.event_codes, minlength=len(EVENT_TYPES) + 1)[1:],
                strict=True,
            )
            if count
        },
        first_time=first_time,
        last_time=last_time,
        dropped={file.role: dict(file.dropped) for file in prepared.report.files if file.dropped},
    )


def _head_share(descending: npt.NDArray[np.int64], percent: int) -> float:
    """Share of the sum in the first `percent` of the counts, but in at least one count."""
    head = max(1, round(len(descending) * percent / 100))
    return float(descending[:head].sum() / descending.sum())


def _rating_counts(ratings: npt.NDArray[np.float32]) -> dict[str, int]:
    given = ratings[~np.isnan(ratings)]
    values, counts = np.unique(given, return_counts=True)
    if len(values) <= _MAX_RATING_VALUES:
        return {f"{value:g}": int(count) for value, count in zip(values, counts, strict=True)}
    counts, edges = np.histogram(given, bins=_NUM_BINS)
    return {f"{low:.3g} to {high:.3g}": int(count) for low, high, count in zip(edges, edges[1:], counts, strict=False)}


def _time_range(dataset: Dataset) -> tuple[str | None, str | None]:
    times = dataset.event_times
    if not times.any():
        return None, None
    first, last = (
        datetime.fromtimestamp(int(time) // 1_000_000, UTC).isoformat() for time in (times.min(), times.max())
    )
    return first, last


def _quantile_name(quantile: float) -> str:
    return {0.0: "least", 0.5: "median", 1.0: "most"}.get(quantile, f"{quantile:.0%}")


def _histogram(title: str, counts: Mapping[str, int]) -> Sequence[str]:
    if not counts:
        return [f"{title}: none"]
    largest, width = max(counts.values()), max(len(name) for name in counts)
    return [
        f"{title}:",
        *(f"    {name:>{width}}  {'#' * round(40 * count / largest):<40}  {count:,}" for name, count in counts.items()),
    ]
