"""Tables of the compared columns: the events of users, and the champion's output for these users."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from tandem.contract import names
from tandem.contract.bundle import Bundle
from tandem.contract.vocabulary import MISSING_ROW, Rows
from trainer.dataset.dataset import Catalogue, Dataset
from trainer.drift.windows import MICROSECONDS_OF_DAY, Sample

NUM_RECOMMENDED: Final = 10
"""Length of the recommended lists that are compared."""
_NUM_NAMED_ITEMS: Final = 100
"""Number of items that the column of recommended items distinguishes, the most recommended in the reference; all other
items share one value."""
_POPULARITY_BUCKETS: Final = ((0.01, "top 1 %"), (0.1, "top 10 %"), (0.5, "top 50 %"), (1.0, "rest"))
"""Upper bounds of shares of the champion's catalogue, most popular items first, and their names."""
_NEW_ITEM: Final = "new"
_OTHER: Final = "other"
_NONE: Final = "none"
_MICROSECONDS_OF_HOUR: Final = 3_600_000_000

Texts = npt.NDArray[np.str_]


@dataclass(frozen=True, kw_only=True)
class Table:
    """Columns of equal length."""

    users: npt.NDArray[np.int64]
    """(rows,) int64, the user of each row. Rows of the same user are not independent of each other."""
    numeric: Mapping[str, npt.NDArray[np.float64]] = field(default_factory=dict)
    """NaN for a missing value."""
    categorical: Mapping[str, Texts] = field(default_factory=dict)

    def rows_of(self, users: npt.NDArray[np.int64]) -> Table:
        """The rows of `users`."""
        kept = np.isin(self.users, users)
        return Table(
            users=self.users[kept],
            numeric={name: values[kept] for name, values in self.numeric.items()},
            categorical={name: values[kept] for name, values in self.categorical.items()},
        )

    def with_columns_of(self, other: Table) -> Table:
        """This table without the columns that `other` lacks, which cannot be compared."""
        return Table(
            users=self.users,
            numeric={name: values for name, values in self.numeric.items() if name in other.numeric},
            categorical={name: values for name, values in self.categorical.items() if name in other.categorical},
        )


def inputs(sample: Sample, bundle: Bundle, *, seed: int) -> Table:
    """The events of the users in the window: a row per event."""
    known, events = sample.known, sample.events
    user_rows, times, ratings = known.user_rows[events], known.event_times[events], known.ratings[events]
    item_rows = known.item_rows[events]
    numeric = {"events of the user on that day (log)": np.log(_events_of_day(user_rows, times))}
    if not np.isnan(ratings).all():
        numeric[names.RATING] = ratings.astype(np.float64)
    categorical = {
        names.EVENT_TYPE: np.array(names.EVENT_TYPES)[known.event_codes[events] - 1],
        "item popularity": _popularity_buckets(item_rows, known.catalogue, bundle),
        "item category": _categories(item_rows, known.catalogue, seed=seed),
    }
    if times.any():
        categorical["hour"] = np.char.zfill((times // _MICROSECONDS_OF_HOUR % 24).astype(str), 2)
    return Table(users=user_rows, numeric=numeric, categorical={**categorical, **_features(user_rows, known, bundle)})


def scores(sample: Sample, user_scores: npt.NDArray[np.float32]) -> Table:
    """The champion's scores, (users, items) float32 with -inf for items that cannot be recommended: a row per user.

    The scores of items that users chose are not compared, because the champion was trained on those of the reference
    and not on recent ones.
    """
    best = -np.sort(-user_scores, axis=1)[:, :NUM_RECOMMENDED].astype(np.float64)
    finite = np.where(np.isfinite(user_scores), user_scores, np.nan).astype(np.float64)
    columns = {
        "best score": best[:, 0],
        f"score {NUM_RECOMMENDED}": best[:, -1],
        "mean score": np.nanmean(finite, axis=1),
        "spread of scores": np.nanstd(finite, axis=1),
    }
    numeric = {name: np.where(np.isfinite(values), values, np.nan) for name, values in columns.items()}
    return Table(users=sample.users, numeric=numeric)


def recommendations(
    sample: Sample, user_scores: npt.NDArray[np.float32], bundle: Bundle, *, named_items: Sequence[str], seed: int
) -> Table:
    """The lists by `user_scores`: a row per user and recommended item. Items not in `named_items` share one value."""
    user_indices, item_rows = _top_items(user_scores)
    catalogue = sample.known.catalogue
    item_ids = np.array(catalogue.item_ids)[item_rows]
    return Table(
        users=sample.users[user_indices],
        categorical={
            "recommended item": np.where(np.isin(item_ids, list(named_items)), item_ids, _OTHER),
            "category": _categories(item_rows, catalogue, seed=seed),
            "popularity": _popularity_buckets(item_rows, catalogue, bundle),
        },
    )


def most_recommended(sample: Sample, user_scores: npt.NDArray[np.float32]) -> list[str]:
    """Ids of the items that occur in most lists."""
    _, item_rows = _top_items(user_scores)
    counts = np.bincount(item_rows, minlength=len(sample.known.catalogue))
    order = np.argsort(-counts, kind="stable")[:_NUM_NAMED_ITEMS]
    return [sample.known.catalogue.item_ids[row] for row in order if counts[row]]


def vectors(sample: Sample, user_vectors: npt.NDArray[np.float32]) -> Table:
    """User vectors, (users, dim) float32: a column per dimension, a row per user."""
    columns = {f"dim {dim:03}": column.astype(np.float64) for dim, column in enumerate(user_vectors.T)}
    return Table(users=sample.users, numeric=columns)


def _top_items(user_scores: npt.NDArray[np.float32]) -> tuple[npt.NDArray[np.int64], Rows]:
    """Returns (row of the user in `user_scores`, row of the item) of every recommended item."""
    rows = np.argsort(-user_scores, axis=1, kind="stable")[:, :NUM_RECOMMENDED]
    user_indices, columns = np.nonzero(np.isfinite(np.take_along_axis(user_scores, rows, axis=1)))
    return user_indices, rows[user_indices, columns]


def _events_of_day(user_rows: npt.NDArray[np.int64], times: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """For each event, the number of events of its user on its day, (n,) int64."""
    _, group_indices, counts = np.unique(
        np.stack([user_rows, times // MICROSECONDS_OF_DAY]), axis=1, return_inverse=True, return_counts=True
    )
    events_of_day: npt.NDArray[np.int64] = counts[group_indices]
    return events_of_day


def _popularity_buckets(item_rows: Rows, catalogue: Catalogue, bundle: Bundle) -> Texts:
    """Bucket of each item by its popularity in the champion's bundle, which does not depend on the windows."""
    model_rows = bundle.item_vocabulary.rows_of_keys(catalogue.vocabulary.keys[item_rows])
    ranks = np.empty(len(bundle.rows_by_popularity), dtype=np.int64)
    ranks[bundle.rows_by_popularity] = np.arange(len(ranks))
    shares, labels = zip(*_POPULARITY_BUCKETS, strict=True)
    buckets = np.searchsorted(np.array(shares), (ranks[model_rows] + 1) / len(ranks))
    return np.where(model_rows == MISSING_ROW, _NEW_ITEM, np.array(labels)[np.minimum(buckets, len(labels) - 1)])


def _categories(item_rows: Rows, catalogue: Catalogue, *, seed: int) -> Texts:
    """One category of each item, drawn at random: always the first would favour the beginning of the alphabet."""
    item_categories: list[Sequence[str]] = [categories or (_NONE,) for categories in catalogue.categories]
    drawn = np.random.default_rng(seed).random(len(item_rows))
    return np.array(
        [item_categories[row][int(x * len(item_categories[row]))] for row, x in zip(item_rows, drawn, strict=True)]
    )


def _features(user_rows: npt.NDArray[np.int64], known: Dataset, bundle: Bundle) -> dict[str, Any]:
    """The user features that the champion reads, in its codes, without the features computed from the history."""
    columns = {}
    for feature in bundle.manifest.feature_schema.user_features:
        if feature.name in known.feature_names:
            codes = [feature.code(raw.get(feature.name)) for raw in known.user_features]
            columns[f"user feature {feature.name}"] = np.array(codes)[user_rows].astype(str)
    return columns
