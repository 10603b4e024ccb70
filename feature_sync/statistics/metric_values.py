"""The numbers of one metric: usable users of each arm, outliers capped, ready for means and variances."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from tea_tasting.aggr import Aggregates

from feature_sync.statistics.plan import Metric
from feature_sync.statistics.user_table import UserTable

NUMERATOR: Final = "numerator"
DENOMINATOR: Final = "denominator"
COVARIATE: Final = "covariate"
COVARIATE_DENOMINATOR: Final = "covariate_denominator"
"""Names of the columns in `Aggregates`."""

_Values = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class ArmValues:
    """A metric's numbers of one arm, outliers capped."""

    columns: Mapping[str, _Values]
    """By the names above; (users,) each."""
    uncapped_numerator: _Values
    capped: int
    """Users whose numerator was capped."""
    left_out: int
    """Users without a usable number."""

    @property
    def users(self) -> int:
        """Number of usable users."""
        return len(self.columns[NUMERATOR])

    @property
    def has_denominator(self) -> bool:
        """Whether there is anything to divide by."""
        return DENOMINATOR not in self.columns or bool(self.columns[DENOMINATOR].any())

    @property
    def per_user(self) -> _Values:
        """Each user's own value, (users,)."""
        return _per_user(self.columns[NUMERATOR], self.columns.get(DENOMINATOR))

    @property
    def mean(self) -> float | None:
        """The metric of the arm; None: no user, or a denominator that is 0."""
        return _mean(self.columns[NUMERATOR], self.columns.get(DENOMINATOR))

    @property
    def uncapped_mean(self) -> float | None:
        """The metric with outliers as they are."""
        return _mean(self.uncapped_numerator, self.columns.get(DENOMINATOR))

    @property
    def variance(self) -> float:
        """Variance of one user's value, by the delta method for ratios."""
        return float(self.aggregates().ratio_var(NUMERATOR, DENOMINATOR if DENOMINATOR in self.columns else None))

    def aggregates(self) -> Aggregates:
        """Means, variances and covariances. Numbers that are too large give infinity or NaN."""
        names = list(self.columns)
        rows = np.stack([self.columns[name] for name in names])
        means, covariances = rows.mean(axis=1), np.atleast_2d(np.cov(rows))
        return Aggregates(
            count_=self.users,
            mean_=dict(zip(names, means.tolist(), strict=True)),
            var_=dict(zip(names, np.diag(covariances).tolist(), strict=True)),
            cov_={
                (names[i], names[j]): float(covariances[i, j])
                for i in range(len(names))
                for j in range(i + 1, len(names))
            },
        )


def metric_values(table: UserTable, metric: Metric) -> dict[str, ArmValues]:
    """The numbers of a metric, by arm; arms without users are left out. One cap serves all arms, since one for each
    would hide a difference between them."""
    numerator = table.columns[metric.numerator]
    denominator = table.columns[metric.denominator] if metric.denominator else None
    usable = np.isfinite(numerator)
    if denominator is not None:
        usable &= np.isfinite(denominator) & (denominator >= 0)
    arms = table.arm[usable]
    numerator = numerator[usable]
    columns = {}
    if denominator is not None:
        columns[DENOMINATOR] = denominator = denominator[usable]
    capped = _capped(numerator, denominator, metric.cap_quantile)
    columns[NUMERATOR] = capped
    columns |= _covariates(table, metric, usable)
    result = {}
    for arm in dict.fromkeys(table.arm.tolist()):
        rows = arms == arm
        result[arm] = ArmValues(
            columns={name: values[rows] for name, values in columns.items()},
            uncapped_numerator=numerator[rows],
            capped=int((capped[rows] != numerator[rows]).sum()),
            left_out=int((~usable & (table.arm == arm)).sum()),
        )
    return result


def _covariates(table: UserTable, metric: Metric, usable: NDArray[np.bool_]) -> dict[str, _Values]:
    if not metric.covariate:
        return {}
    covariate = table.columns[metric.covariate][usable]
    known = np.isfinite(covariate)
    if not metric.covariate_denominator:
        # Nothing is known of the user: the mean of the others, which adjusts nothing.
        mean = covariate[known].mean() if known.any() else 0.0
        return {COVARIATE: _capped(np.where(known, covariate, mean), None, metric.cap_quantile)}
    denominator = table.columns[metric.covariate_denominator][usable]
    known &= np.isfinite(denominator) & (denominator >= 0)
    covariate, denominator = np.where(known, covariate, 0.0), np.where(known, denominator, 0.0)
    return {
        COVARIATE: _capped(covariate, denominator, metric.cap_quantile),
        COVARIATE_DENOMINATOR: denominator,
    }


def _capped(numerator: _Values, denominator: _Values | None, quantile: float | None) -> _Values:
    """The numerator, with users' own values beyond the quantile moved to it."""
    if quantile is None:
        return numerator
    values = _per_user(numerator, denominator)
    limited = values
    # The quantile is a value of the table, never a mean of two: the largest of a few values is capped as well.
    if (positive := values[values > 0]).size:
        limited = np.minimum(limited, np.quantile(positive, quantile, method="lower"))
    if (negative := values[values < 0]).size:
        limited = np.maximum(limited, np.quantile(negative, 1 - quantile, method="higher"))
    scale = 1.0 if denominator is None else np.where(denominator > 0, denominator, 1.0)
    return np.where(limited == values, numerator, limited * scale)


def _per_user(numerator: _Values, denominator: _Values | None) -> _Values:
    # A user with events and no denominator (a purchase without an impression) counts as if it were 1.
    return numerator if denominator is None else numerator / np.where(denominator > 0, denominator, 1.0)


def _mean(numerator: _Values, denominator: _Values | None) -> float | None:
    total = float(len(numerator)) if denominator is None else float(denominator.sum())
    mean = float(numerator.sum()) / total if total > 0 else np.nan
    return mean if np.isfinite(mean) else None
