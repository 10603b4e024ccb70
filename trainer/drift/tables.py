"""The columns that are compared: what users did, and what the champion makes of them."""

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
"""Length of the lists whose items are compared."""
_NUM_NAMED_ITEMS: Final = 100
"""Items that the recommended-item distribution tells apart, the most recommended of the reference; the rest is one."""
_POPULARITY_BUCKETS: Final = ((0.01, "top 1 %"), (0.1, "top 10 %"), (0.5, "top 50 %"), (1.0, "rest"))
"""Shares of the champion's catalogue, most popular first."""
_NEW_ITEM: Final = "new"
_OTHER: Final = "other"
_NONE: Final = "none"
_MICROSECONDS_OF_HOUR: Final = 3_600_000_000

Texts = npt.NDArray[np.str_]


@dataclass(frozen=True, kw_only=True)
class Table:
    """Columns of one length."""

    users: npt.NDArray[np.int64]
    """(rows,) int64, whose row it is: rows of one user are not independent of each other."""
    numeric: Mapping[str, npt.NDArray[np.float64]] = field(default_factory=dict)
    """NaN where there is no value."""
    categorical: Mapping[str, Texts] = field(default_factory=dict)

    def rows_of(self, users: npt.NDArray[np.int64]) -> Table:
        """The rows of some users."""
        kept = np.isin(self.users, users)
        return Table(
            users=self.users[kept],
            numeric={name: values[kept] for name, values in self.numeric.items()},
            categorical={name: values[kept] for name, values in self.categorical.items()},
        )

    def with_columns_of(self, other: Table) -> Table:
        """Without the columns that the other lacks: what one side alone has cannot be compared."""
        return Table(
            users=self.users,
            numeric={name: values for name, values in self.numeric.items() if name in other.numeric},
            categorical={name: values for name, values in self.categorical.items() if name in other.categorical},
        )


def inputs(sample: Sample, bundle: Bundle, *, seed: int) -> Table:
    """What the users did in the window: a row per event."""
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


def scores(sample: Sample, scores_of_users: npt.NDArray[np.float32]) -> Table:
    """The champion's scores, (users, items) float32 with -inf for what cannot be recommended: a row per user.

    Not the scores of the items that users chose: the champion has learned those of the reference, not the recent ones.
    """
    best = -np.sort(-scores_of_users, axis=1)[:, :NUM_RECOMMENDED].astype(np.float64)
    finite = np.where(np.isfinite(scores_of_users), scores_of_users, np.nan).astype(np.float64)
    columns = {
        "best score": best[:, 0],
        f"score {NUM_RECOMMENDED}": best[:, -1],
        "mean score": np.nanmean(finite, axis=1),
        "spread of scores": np.nanstd(finite, axis=1),
    }
    numeric = {name: np.where(np.isfinite(values), values, np.nan) for name, values in columns.items()}
    return Table(users=sample.users, numeric=numeric)


def recommendations(
    sample: Sample, scores_of_users: npt.NDArray[np.float32], bundle: Bundle, *, named_items: Sequence[str], seed: int
) -> Table:
    """The lists that those scores make: a row per user and recommended item. Other items than `named_items` are one."""
    places, item_rows = _top_items(scores_of_users)
    catalogue = sample.known.catalogue
    item_ids = np.array(catalogue.item_ids)[item_rows]
    return Table(
        users=sample.users[places],
        categorical={
            "recommended item": np.where(np.isin(item_ids, list(named_items)), item_ids, _OTHER),
            "category": _categories(item_rows, catalogue, seed=seed),
            "popularity": _popularity_buckets(item_rows, catalogue, bundle),
        },
    )


def most_recommended(sample: Sample, scores_of_users: npt.NDArray[np.float32]) -> list[str]:
    """Ids of the items that most lists have."""
    _, item_rows = _top_items(scores_of_users)
    counts = np.bincount(item_rows, minlength=len(sample.known.catalogue))
    order = np.argsort(-counts, kind="stable")[:_NUM_NAMED_ITEMS]
    return [sample.known.catalogue.item_ids[row] for row in order if counts[row]]


def vectors(sample: Sample, vectors_of_users: npt.NDArray[np.float32]) -> Table:
    """User vectors, (users, dim) float32: a column per dimension, a row per user."""
    columns = {f"dim {place:03}": column.astype(np.float64) for place, column in enumerate(vectors_of_users.T)}
    return Table(users=sample.users, numeric=columns)


def _top_items(scores_of_users: npt.NDArray[np.float32]) -> tuple[npt.NDArray[np.int64], Rows]:
    """(place of the user, row of the item) of every recommended item."""
    rows = np.argsort(-scores_of_users, axis=1, kind="stable")[:, :NUM_RECOMMENDED]
    places, columns = np.nonzero(np.isfinite(np.take_along_axis(scores_of_users, rows, axis=1)))
    return places, rows[places, columns]


def _events_of_day(user_rows: npt.NDArray[np.int64], times: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """How many events the user of each event had on its day, (n,) int64."""
    _, place, counts = np.unique(
        np.stack([user_rows, times // MICROSECONDS_OF_DAY]), axis=1, return_inverse=True, return_counts=True
    )
    of_day: npt.NDArray[np.int64] = counts[place]
    return of_day


def _popularity_buckets(item_rows: Rows, catalogue: Catalogue, bundle: Bundle) -> Texts:
    """By popularity as the champion knows it, which neither window decides about."""
    model_rows = bundle.item_vocabulary.rows_of_keys(catalogue.vocabulary.keys[item_rows])
    places = np.empty(len(bundle.rows_by_popularity), dtype=np.int64)
    places[bundle.rows_by_popularity] = np.arange(len(places))
    shares, labels = zip(*_POPULARITY_BUCKETS, strict=True)
    buckets = np.searchsorted(np.array(shares), (places[model_rows] + 1) / len(places))
    return np.where(model_rows == MISSING_ROW, _NEW_ITEM, np.array(labels)[np.minimum(buckets, len(labels) - 1)])


def _categories(item_rows: Rows, catalogue: Catalogue, *, seed: int) -> Texts:
    """One of the categories of each item, drawn at random: the first ones alone would be a choice of the alphabet."""
    of_item: list[Sequence[str]] = [categories or (_NONE,) for categories in catalogue.categories]
    drawn = np.random.default_rng(seed).random(len(item_rows))
    return np.array([of_item[row][int(x * len(of_item[row]))] for row, x in zip(item_rows, drawn, strict=True)])


def _features(user_rows: npt.NDArray[np.int64], known: Dataset, bundle: Bundle) -> dict[str, Any]:
    """The user features that the champion reads, as it codes them; those of the history are not inputs."""
    columns = {}
    for feature in bundle.manifest.feature_schema.user_features:
        if feature.name in known.feature_names:
            codes = [feature.code(raw.get(feature.name)) for raw in known.user_features]
            columns[f"user feature {feature.name}"] = np.array(codes)[user_rows].astype(str)
    return columns
