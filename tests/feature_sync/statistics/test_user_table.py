"""Tables that are not as the plan says are refused with the column or row; who is left out is counted."""

from __future__ import annotations

import datetime
import decimal
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from feature_sync.core.errors import ExperimentError
from feature_sync.statistics.analyse import analyse
from feature_sync.statistics.plan import (
    MICROSECONDS_PER_DAY,
    STANDARD_METRICS,
    ExperimentPlan,
    Metric,
    standard_metrics,
)
from feature_sync.statistics.results import Decision
from tests.feature_sync.statistics.tables import GUARD, VALUE, arm_of, metric_of, normal, plan, users


def table(count: int = 200) -> pd.DataFrame:
    return users({"A": {"value": normal(1, count)}, "B": {"value": normal(2, count)}})


def test_arrow_and_pandas_give_the_same() -> None:
    frame = table()
    arrow = pa.Table.from_pandas(frame, preserve_index=False)
    dictionary = arrow.set_column(1, "arm", arrow["arm"].dictionary_encode())
    assert analyse(frame, plan()) == analyse(arrow, plan()) == analyse(dictionary, plan())


def test_what_is_no_table_is_refused() -> None:
    with pytest.raises(ExperimentError, match="table is a dict, must be a pandas or Arrow table"):
        analyse({"user_id": ["u"]}, plan())


def test_an_index_with_repeats_changes_nothing() -> None:
    frame = table()
    assert analyse(frame.set_axis([0] * len(frame)), plan()) == analyse(frame, plan())


@pytest.mark.parametrize("value", [None, pd.NA, np.nan])
def test_a_column_of_nothing_says_nothing(value: object) -> None:
    frame = table().assign(value=pd.Series([value] * 400, dtype=object))
    result = metric_of(frame, VALUE)
    assert result.because == "200 users of A (100.0%) have no usable number"


def test_the_order_of_rows_changes_nothing() -> None:
    frame = table()
    shuffled = frame.sample(frac=1.0, random_state=1)
    first, second = arm_of(frame, plan()), arm_of(shuffled, plan())
    assert first.verdict.decision == second.verdict.decision
    assert (first.users, first.control_users) == (second.users, second.control_users)


@pytest.mark.parametrize("kind", ["int64", "bool", "float32", "Int64", "Float64", "decimal"])
def test_numbers_of_every_type_are_numbers(kind: str) -> None:
    frame = table()
    ones = pd.Series(np.arange(len(frame)) % 3 == 0).astype("int64")
    frame["value"] = ones.map(decimal.Decimal) if kind == "decimal" else ones.astype(kind)
    missing = kind in {"Int64", "Float64"}
    if missing:
        frame.loc[0, "value"] = pd.NA
    result = metric_of(frame, VALUE)
    assert result.control_mean == pytest.approx(ones[int(missing) : 200].mean())
    assert result.users_left_out["A"] == int(missing)


def test_users_in_two_arms_are_left_out_of_both_and_counted() -> None:
    frame = table(500)
    twice = frame.iloc[[0, 1, 2]].assign(arm="B", value=1e9)
    result = analyse(pd.concat([frame, twice], ignore_index=True), plan())
    (arm,) = result.arms
    assert (result.users, result.users_in_two_arms) == (997, 3)
    assert (arm.control_users, arm.users) == (497, 500)
    assert arm.metrics[0].arm_mean == pytest.approx(10.0)


def test_many_users_in_two_arms_leave_nothing_to_say() -> None:
    frame = table(500)
    twice = frame.iloc[:20].assign(arm="B")
    verdict = arm_of(pd.concat([frame, twice], ignore_index=True), plan()).verdict
    assert verdict.decision is Decision.CANNOT_SAY
    assert verdict.because == "2.0% of the users were in two arms"


def test_users_of_an_arm_that_the_plan_does_not_name_are_counted() -> None:
    frame = pd.concat([table(), users({"C": {"value": normal(3, 70)}})], ignore_index=True)
    result = analyse(frame, plan())
    assert result.users_of_other_arms == {"C": 70}
    assert result.users == 400
    also_in_c = pd.concat([frame, frame.iloc[[0]].assign(arm="C")], ignore_index=True)
    assert analyse(also_in_c, plan()).users_in_two_arms == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda frame: frame.drop(columns="user_id"), "table: no column 'user_id'"),
        (lambda frame: frame.drop(columns="value"), "table: no column 'value', which metric value reads"),
        (lambda frame: pd.concat([frame, frame["value"]], axis=1), "table: two columns are named 'value'"),
        (
            lambda frame: frame.assign(user_id=["", *frame["user_id"][1:]]),
            "table, row 0: user_id is '', must be a string that is not empty",
        ),
        (
            lambda frame: frame.assign(arm=[*frame["arm"][:-1], None]),
            "table, row 399: arm is None, must be a string that is not empty",
        ),
        (
            lambda frame: frame.assign(user_id=range(400)),
            "table, row 0: user_id is 0, must be a string that is not empty",
        ),
        (
            lambda frame: pd.concat([frame, frame.iloc[[7]]]),
            "table: user 'A-7' has more than one row of arm 'A'",
        ),
        (
            lambda frame: frame.assign(value=["x", *frame["value"][1:]]),
            "table: column 'value' holds 'x', must hold numbers",
        ),
        (lambda frame: frame.assign(value="3"), "table: column 'value' holds '3', must hold numbers"),
        (
            lambda frame: frame.assign(value=datetime.datetime(2026, 1, 1)),
            "table: column 'value' holds datetime64[us], must hold numbers",
        ),
        (lambda frame: frame.assign(value=1j), "table: column 'value' holds complex128, must hold numbers"),
        (lambda frame: frame.assign(value=[[1]] * 400), "table: column 'value' holds object, must hold numbers"),
        (
            lambda frame: frame.assign(first_exposed=pd.Timestamp("2026-01-01")),
            "table: column 'first_exposed' holds datetime64[us], must hold numbers",
        ),
    ],
)
def test_a_table_that_is_not_as_the_plan_says_is_refused(change: Any, message: str) -> None:
    with pytest.raises(ExperimentError) as refused:
        analyse(change(table()), plan())
    assert str(refused.value).replace("[s]", "[us]").replace("[ns]", "[us]") == message


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"control": "X"}, "experiment test: control 'X' is not among the arms A, B"),
        ({"shares": {"A": 1.0}}, "experiment test: shares names no arm beside control"),
        (
            {"shares": {"A": 1.0, "B": 0.0}},
            "experiment test: share of arm B is 0.0, must be above 1e-06 and below 1e+06",
        ),
        (
            {"shares": {"A": 1.0, "B": float("nan")}},
            "experiment test: share of arm B is nan, must be above 1e-06 and below 1e+06",
        ),
        ({"metrics": (VALUE, VALUE)}, "experiment test: metrics named twice: value"),
        ({"metrics": (GUARD,)}, "experiment test: metrics has no goal, so that nothing could decide"),
        ({"metrics": ()}, "experiment test: metrics has no goal, so that nothing could decide"),
        ({"until": 0}, "experiment test: until (0) must be after started (0)"),
        ({"alpha": 0.0}, "experiment test: alpha is 0.0, must be above 1e-06 and below 0.5"),
        ({"power": 1.0}, "experiment test: power is 1.0, must be above 0.05 and below 1"),
        ({"planned_users": 0}, "experiment test: planned_users is 0, must be above 3 and below 1e+12"),
        ({"min_users": 1}, "experiment test: min_users is 1, must be above 1 and below inf"),
        ({"min_days": -1.0}, "experiment test: min_days is -1.0, must be 0 or more"),
        ({"max_share_left_out": float("nan")}, "experiment test: max_share_left_out is nan, must be 0 or more"),
        ({"max_days": 3.0}, "experiment test: max_days is 3.0, must be above 7 and below inf"),
        (
            {"sample_ratio_warn": 0.001, "sample_ratio_invalid": 0.01},
            "experiment test: sample_ratio_invalid must not exceed sample_ratio_warn",
        ),
    ],
)
def test_a_plan_that_cannot_be_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ExperimentError) as refused:
        ExperimentPlan(
            **{
                "experiment": "test",
                "control": "A",
                "shares": {"A": 1.0, "B": 1.0},
                "metrics": (VALUE,),
                "started": 0,
                "until": MICROSECONDS_PER_DAY,
                **changes,
            }
        )
    assert str(refused.value) == message


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"name": ""}, "metric '': name and numerator must not be empty"),
        ({"numerator": ""}, "metric 'm': name and numerator must not be empty"),
        ({"covariate": "n"}, "metric m: covariate 'n' is the metric's own column"),
        ({"covariate_denominator": "x"}, "metric m: covariate_denominator is given without covariate"),
        (
            {"covariate": "b", "denominator": "d"},
            "metric m: denominator and covariate_denominator must be given together, or neither",
        ),
        ({"minimum_lift": 0.0}, "metric m: minimum_lift is 0.0, must be above 1e-06 and below 1e+06"),
        ({"margin": -0.1}, "metric m: margin is -0.1, must be above 0 and below inf"),
        ({"cap_quantile": 1.0}, "metric m: cap_quantile is 1.0, must be above 0.5 and below 1"),
    ],
)
def test_a_metric_that_cannot_be_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ExperimentError) as refused:
        Metric(**{"name": "m", "numerator": "n", **fields})
    assert str(refused.value) == message


def test_standard_metrics_are_those_whose_columns_the_table_has() -> None:
    every = {column for metric in STANDARD_METRICS for column in metric.columns}
    assert standard_metrics(every) == STANDARD_METRICS
    (ctr,) = standard_metrics(["clicks", "impressions", "clicks_before"])
    assert (ctr.name, ctr.covariate, ctr.covariate_denominator) == ("ctr", "", "")
    assert standard_metrics([]) == ()
