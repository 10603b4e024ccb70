"""The table of users, checked: each user in one arm of the plan, with the reasons why others are left out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pandas.api.types import infer_dtype

from feature_sync.core.errors import ExperimentError
from feature_sync.statistics.plan import ARM, FIRST_EXPOSED, MICROSECONDS_PER_DAY, USER_ID, ExperimentPlan

_RECENT_DAYS: Final = 7


@dataclass(frozen=True, kw_only=True)
class UserTable:
    """Users of the plan's arms, in the order of the table, and who is not among them."""

    arm: NDArray[np.object_]
    """Name of the arm, by user."""
    columns: Mapping[str, NDArray[np.float64]]
    """What the metrics read, by user; NaN: missing."""
    new_users_per_day: Mapping[str, float] | None
    """By arm, over the last days; None: the table does not say when users came."""
    users_in_two_arms: int
    users_of_other_arms: Mapping[str, int]

    def users(self, arm: str) -> int:
        """Number of users of an arm."""
        return int((self.arm == arm).sum())


def read_user_table(table: Any, plan: ExperimentPlan) -> UserTable:
    """Checks a pandas or Arrow table (`plan` describes its columns). Raises ExperimentError that names the metric and
    the column, or the row."""
    frame = table.to_pandas() if hasattr(table, "to_pandas") else table
    if not isinstance(frame, pd.DataFrame):
        raise ExperimentError(f"table is a {type(table).__name__}, must be a pandas or Arrow table")
    _check_columns(frame, plan)
    # Arrow's dictionaries become categories, which count the ones that have no rows too.
    frame = frame.assign(**{column: frame[column].astype(object) for column in (USER_ID, ARM)})
    for column in (USER_ID, ARM):
        _check_names(frame[column])
    if (twice := frame.duplicated([USER_ID, ARM])).any():
        row = frame[twice].iloc[0]
        raise ExperimentError(f"table: user {row[USER_ID]!r} has more than one row of arm {row[ARM]!r}")
    in_two_arms = frame[USER_ID].duplicated(keep=False)
    once = frame[~in_two_arms]
    known = once[ARM].isin(list(plan.shares))
    kept = once[known]
    return UserTable(
        arm=kept[ARM].to_numpy(dtype=object),
        columns={name: _numbers(kept[name]) for metric in plan.metrics for name in metric.columns},
        new_users_per_day=_new_users_per_day(kept, plan) if FIRST_EXPOSED in frame.columns else None,
        users_in_two_arms=int(frame.loc[in_two_arms, USER_ID].nunique()),
        users_of_other_arms={str(arm): int(count) for arm, count in once.loc[~known, ARM].value_counts().items()},
    )


def _check_columns(frame: pd.DataFrame, plan: ExperimentPlan) -> None:
    if frame.columns.has_duplicates:
        raise ExperimentError(f"table: two columns are named {frame.columns[frame.columns.duplicated()][0]!r}")
    for column in (USER_ID, ARM):
        if column not in frame.columns:
            raise ExperimentError(f"table: no column {column!r}")
    for metric in plan.metrics:
        for column in metric.columns:
            if column not in frame.columns:
                raise ExperimentError(f"table: no column {column!r}, which metric {metric.name} reads")


def _check_names(column: pd.Series[Any]) -> None:
    if not len(column) or (infer_dtype(column, skipna=False) == "string" and not (column == "").any()):
        return
    for row, value in enumerate(column):
        if not isinstance(value, str) or not value:
            raise ExperimentError(f"table, row {row}: {column.name} is {value!r}, must be a string that is not empty")


def _numbers(column: pd.Series[Any]) -> NDArray[np.float64]:
    if column.dtype.kind in "mMc":
        raise ExperimentError(f"table: column {column.name!r} holds {column.dtype}, must hold numbers")
    if column.dtype == object and (texts := [value for value in column if isinstance(value, str | bytes)]):
        raise ExperimentError(f"table: column {column.name!r} holds {texts[0]!r}, must hold numbers")
    try:
        return np.asarray(column.to_numpy(dtype=np.float64, na_value=np.nan))
    except (TypeError, ValueError, OverflowError):
        raise ExperimentError(f"table: column {column.name!r} holds {column.dtype}, must hold numbers") from None


def _new_users_per_day(frame: pd.DataFrame, plan: ExperimentPlan) -> dict[str, float]:
    days = min(_RECENT_DAYS, plan.days)
    first = _numbers(frame[FIRST_EXPOSED])
    recent = (first >= plan.until - days * MICROSECONDS_PER_DAY) & (first < plan.until)
    arms = frame[ARM].to_numpy(dtype=object)
    return {arm: float((recent & (arms == arm)).sum()) / days for arm in plan.shares}
