"""The plans of experiments, and what `feature_sync.statistics` says of each.

The file of plans is YAML, by experiment:

    new-ranker:
      control: control            # default: the arm of this name
      shares: {control: 1, b: 1}  # default: those that servers named, else equal shares of the arms that were seen
      started: 2026-01-31         # default: the first exposure in the period
      alpha: 0.05                 # and power, planned_users, min_days, min_users
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, time
from pathlib import Path
from typing import Any, Final

import yaml
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from feature_sync.attribution.question import MICROSECONDS
from feature_sync.attribution.users import REVENUE, ExperimentUsers, revenue_columns
from feature_sync.core.errors import ExperimentError, SettingsError
from feature_sync.statistics.plan import ExperimentPlan, Metric, standard_metrics
from feature_sync.statistics.results import ExperimentResult
from tandem.contract.whole_files import read_whole
from tandem.ops.storage_errors import storage_error_line

_CONTROL: Final = "control"

Shares = Mapping[str, float]
"""Expected shares of users by arm; only their ratios count."""


class Planned(BaseModel):
    """What a file says of one experiment."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    control: str = _CONTROL
    shares: dict[str, float] | None = None
    started: datetime | date | None = None
    alpha: float | None = Field(default=None, gt=0, lt=0.5)
    power: float | None = Field(default=None, gt=0.05, lt=1)
    planned_users: int | None = Field(default=None, gt=3)
    min_days: float | None = Field(default=None, ge=0)
    min_users: int | None = Field(default=None, gt=1)


_PLANS: Final = TypeAdapter(dict[str, Planned])


@dataclass(frozen=True, kw_only=True)
class Analysed:
    """One experiment of the period."""

    users: ExperimentUsers
    result: ExperimentResult | None
    """None: `problem` says why there is none."""
    problem: str
    is_planned: bool
    """Whether the file of plans has the experiment."""
    shares: Shares
    """What was expected."""
    has_equal_shares: bool
    """Whether equal shares were expected because nobody has said others."""


def read_plans(path: Path | None) -> Mapping[str, Planned]:
    """The plans of a file, by experiment; None: no plans. Raises SettingsError, which names file and field."""
    if path is None:
        return {}
    try:
        return _PLANS.validate_python(yaml.safe_load(read_whole(path)) or {})
    except OSError as error:
        raise SettingsError(f"--plans: {storage_error_line(error)}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise SettingsError(f"--plans: {path}: {' '.join(str(error).split())}") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        said = ": ".join(filter(None, (str(path), where, first["msg"].lower())))
        raise SettingsError(f"--plans: {said}") from error


def analysed(
    users: ExperimentUsers,
    plans: Mapping[str, Planned],
    named_shares: Callable[[], Mapping[str, Shares]],
    *,
    until: int,
) -> Analysed:
    """The statistics of one experiment; `until` is the end of the period, microseconds since 1970.

    `named_shares` returns the shares that servers have named, by experiment. They are expected where the plan names
    none, unless users were in arms of which they know nothing.

    An experiment that cannot be analysed, because it has no control for example, is no error: `problem` says why.
    """
    # Loads scipy and tea-tasting, which takes a second: reports without experiments need neither.
    from feature_sync.statistics.analyse import analyse

    planned = plans.get(users.experiment, Planned())
    said = planned.shares or named_shares().get(users.experiment, {})
    has_said = planned.shares is not None or {planned.control, *users.arms} <= said.keys()
    shares = said if has_said else dict.fromkeys(users.arms, 1.0)
    result, problem = None, ""
    try:
        result = analyse(users.table, _plan(users, planned, shares, until=until))
    except ExperimentError as error:
        problem = str(error)
    return Analysed(
        users=users,
        result=result,
        problem=problem,
        is_planned=users.experiment in plans,
        shares=shares,
        has_equal_shares=not has_said,
    )


def _plan(users: ExperimentUsers, planned: Planned, shares: Shares, *, until: int) -> ExperimentPlan:
    given: dict[str, Any] = planned.model_dump(include={"alpha", "power", "planned_users", "min_days", "min_users"})
    return ExperimentPlan(
        experiment=users.experiment,
        control=planned.control,
        shares=shares,
        metrics=_metrics(users),
        started=users.first_exposed if planned.started is None else _microseconds(planned.started),
        until=until,
        **{name: value for name, value in given.items() if value is not None},
    )


def _metrics(users: ExperimentUsers) -> tuple[Metric, ...]:
    """The standard metrics; revenue once for each currency."""
    columns = users.table.column_names
    by_currency = revenue_columns(users.currencies)
    metrics = standard_metrics([*columns, REVENUE, f"{REVENUE}_before"])
    found: list[Metric] = []
    for metric in metrics:
        if metric.numerator != REVENUE:
            found.append(metric)
            continue
        found += [
            replace(
                metric,
                name=f"{metric.name}_{currency}",
                numerator=column,
                covariate=f"{column}_before" if metric.covariate else "",
            )
            for currency, column in by_currency.items()
        ]
    return tuple(found)


def _microseconds(moment: datetime | date) -> int:
    if not isinstance(moment, datetime):
        moment = datetime.combine(moment, time(), UTC)
    elif moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return int(moment.timestamp()) * MICROSECONDS
