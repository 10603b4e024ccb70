"""Whatever the numbers are, the answer is a result: JSON, with intervals around their lifts and p-values in range."""

from __future__ import annotations

import json
import warnings
from dataclasses import replace

import numpy as np
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from feature_sync.statistics.analyse import analyse
from feature_sync.statistics.plan import Better, Metric, Role
from tests.feature_sync.statistics.tables import VALUE, plan, users

_NUMBERS = st.one_of(
    st.sampled_from([0.0, 1.0, -1.0, 0.1, 1e-320, 1e-160, 1e18, 1e154, 1.8e308, -1e300, float("inf"), float("nan")]),
    st.floats(-100, 100),
    st.integers(0, 3).map(float),
)
_METRICS = (
    VALUE,
    replace(VALUE, name="capped", cap_quantile=0.9, covariate="before"),
    Metric(
        name="ratio", numerator="value", denominator="shown", covariate="before", covariate_denominator="shown_before"
    ),
    Metric(name="lower", numerator="value", role=Role.GUARDRAIL, better=Better.LOWER),
    Metric(name="share", numerator="value", denominator="shown", role=Role.GUARDRAIL, margin_is_relative=False),
)


@settings(max_examples=60, deadline=None, derandomize=True, phases=[Phase.generate])
@given(st.data())
def test_every_table_of_numbers_gets_a_result(data: st.DataObject) -> None:
    arms = {}
    for arm in data.draw(st.sampled_from([["A", "B"], ["B", "C"], ["A", "B", "C"], ["A"]])):
        count = data.draw(st.integers(1, 12))
        # Few distinct numbers, repeated, so that constants and rare values are common.
        some = {name: data.draw(st.lists(_NUMBERS, min_size=1, max_size=4)) for name in ("value", "shown", "before")}
        repeated = {name: np.resize(values, count) for name, values in some.items()}
        arms[arm] = {**repeated, "shown_before": np.resize(some["shown"], count)[::-1]}
    asked = plan(
        *_METRICS,
        shares={"A": 0.95, "B": 0.05, "C": 1.0},
        min_users=2,
        min_users_with_value=data.draw(st.integers(0, 2)),
        max_share_left_out=data.draw(st.sampled_from([0.01, 0.9])),
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = analyse(users(arms), asked)
    json.dumps(result.as_json(), allow_nan=False)
    for arm in result.arms:
        assert arm.verdict.because
        for metric in arm.metrics:
            for lift in (metric.unadjusted, metric.adjusted):
                if lift is None:
                    continue
                assert 0 <= lift.anytime_p <= 1
                assert 0 <= lift.fixed_p <= 1
                assert lift.anytime.lower <= lift.absolute <= lift.anytime.upper
                if lift.anytime_relative is not None:
                    assert lift.anytime_relative.lower <= lift.anytime_relative.upper
