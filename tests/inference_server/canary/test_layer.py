"""Who is in a canary."""

from __future__ import annotations

import pytest

from inference_server.canary.layer import CANARY, CONTROL, canary_layer, layer_of_everybody, sticky_value
from inference_server.core.query import Query
from inference_server.experiments.table import make_table
from tandem.contract.experiments import NO_EXPERIMENTS, ExperimentTable

USERS = [f"user-{number}" for number in range(5_000)]


def arms(table: ExperimentTable) -> dict[str, set[str]]:
    """Users by the arm of the canary."""
    found: dict[str, set[str]] = {CANARY: set(), CONTROL: set()}
    for user in USERS:
        for assignment in table.assign(user, {}):
            if assignment.experiment == "canary-17":
                found[assignment.arm].add(user)
    return found


def at(percent: float) -> ExperimentTable:
    return NO_EXPERIMENTS.with_canary(canary_layer("canary-17", model="17", percent=percent))


def test_a_larger_share_only_adds_users_and_the_control_group_is_as_large() -> None:
    before: dict[str, set[str]] = {CANARY: set(), CONTROL: set()}
    for percent in (1.0, 5.0, 25.0, 50.0):
        now = arms(at(percent))
        for arm, users in now.items():
            assert before[arm] <= users
            assert len(users) == pytest.approx(len(USERS) * percent / 100, abs=4 * (len(USERS) * percent / 100) ** 0.5)
        assert not now[CANARY] & now[CONTROL]
        before = now
    most = arms(at(80.0))
    assert before[CANARY] <= most[CANARY]
    assert most[CONTROL] <= before[CONTROL]
    assert not most[CANARY] & most[CONTROL]


def test_everybody_with_a_value_to_be_sticky_by_is_in_a_full_canary() -> None:
    assert arms(at(100.0)) == {CANARY: set(USERS), CONTROL: set()}
    assert at(100.0).assign("", {}) == ()
    (by_session,) = at(100.0).assign("", {"sessionId": "s"})
    assert (by_session.arm, by_session.model) == (CANARY, "17")


def test_without_a_share_there_is_no_layer() -> None:
    assert canary_layer("canary-17", model="17", percent=0.0) is None
    assert NO_EXPERIMENTS.with_canary(None) == NO_EXPERIMENTS


def test_another_experiment_mixes_the_users_anew() -> None:
    second = NO_EXPERIMENTS.with_canary(canary_layer("canary-17.2", model="17", percent=50.0))
    again = {user for user in USERS if second.assign(user, {})[0].arm == CANARY}
    both = len(arms(at(50.0))[CANARY] & again)
    assert both == pytest.approx(len(USERS) / 4, abs=150)


def table_of(*variants: dict[str, object], rollout: int = 100, **flag: object) -> ExperimentTable:
    shared = 1000 // len(variants)
    document = {
        "features": [
            {
                "name": "layer",
                "strategies": [
                    {
                        "name": "flexibleRollout",
                        "parameters": {"rollout": rollout},
                        "variants": [
                            {
                                "name": f"v{index}",
                                "weight": shared,
                                **({"payload": {"type": "json", "value": payload}} if payload else {}),
                            }
                            for index, payload in enumerate(variants)
                        ],
                    }
                ],
                **flag,
            }
        ]
    }
    return make_table(document, locate=lambda _, __: "")


MODELS = ({"experiment": "models"}, {"experiment": "models", "model": "challenger"})


def test_users_of_an_experiment_of_models_are_not_in_it_and_others_are() -> None:
    table = table_of(*MODELS, rollout=40).with_canary(canary_layer("canary-17", model="17", percent=50.0))
    for user in USERS[:500]:
        experiments = [assignment.experiment for assignment in table.assign(user, {})]
        assert experiments in (["models"], ["canary-17"])
    scenarios = table_of({"experiment": "lists"}, {"experiment": "lists", "scenario": "home"})
    beside = scenarios.with_canary(canary_layer("canary-17", model="17", percent=50.0))
    assert all(
        [assignment.experiment for assignment in beside.assign(user, {})] == ["lists", "canary-17"]
        for user in USERS[:100]
    )


def test_a_layer_that_leaves_nobody_is_named() -> None:
    assert layer_of_everybody(table_of(*MODELS)) == "layer"
    for table in (
        NO_EXPERIMENTS,
        table_of(*MODELS, rollout=99),
        table_of(*MODELS, {}, {}),
        table_of(*MODELS, enabled=False),
        table_of({"experiment": "lists"}, {"experiment": "lists", "scenario": "home"}),
    ):
        assert layer_of_everybody(table) == ""


def test_the_value_that_it_sticks_to() -> None:
    assert sticky_value(Query(user_id="u", num_items=1, context={"sessionId": "s"})) == "u"
    assert sticky_value(Query(user_id="", num_items=1, context={"sessionId": "s"})) == "s"
    assert sticky_value(Query(user_id="", num_items=1)) == ""
