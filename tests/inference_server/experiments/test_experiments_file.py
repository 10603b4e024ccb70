"""The file of experiments: what is filled in, what is refused and in which words."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from inference_server.core.errors import ExperimentsInvalid
from inference_server.experiments.experiments_file import ExperimentsFile
from inference_server.experiments.table import Known
from tandem.contract.experiments import Assignment, ExperimentTable

KNOWN = Known(models={"champion", "challenger", "7"}, scenarios={"home", "home-new"})

LAYER = """
features:
  - name: homepage
    strategies:
      - parameters: {rollout: 100}
        variants:
          - {name: control, payload: {type: json, value: {experiment: e}}}
          - {name: new, payload: {type: json, value: {experiment: e, model: challenger, scenario: home-new}}}
"""


def read(tmp_path: Path, text: str, known: Known = KNOWN) -> ExperimentTable:
    path = tmp_path / "experiments.yaml"
    path.write_text(text)
    return ExperimentsFile(path).table(known)


def problems(tmp_path: Path, text: str) -> list[str]:
    with pytest.raises(ExperimentsInvalid) as refused:
        read(tmp_path, text)
    prefix = f"{tmp_path / 'experiments.yaml'}:"
    assert all(problem.startswith(prefix) for problem in refused.value.problems)
    return [problem.removeprefix(prefix) for problem in refused.value.problems]


def flags(*definitions: dict[str, Any]) -> str:
    """JSON is YAML."""
    return json.dumps({"features": definitions}, indent=1)


def layer(name: str, *arms: dict[str, str], **parts: Any) -> dict[str, Any]:
    share = [1000 // len(arms)] * (len(arms) - 1)
    weights = [*share, 1000 - sum(share)]
    variants = [
        {"name": f"v{index}", "weight": weight, "payload": {"type": "json", "value": json.dumps(arm)}}
        for index, (arm, weight) in enumerate(zip(arms, weights, strict=True))
    ]
    return {"name": name, "variants": variants, **parts}


def test_arms_and_their_names(tmp_path: Path) -> None:
    table = read(tmp_path, LAYER)
    assert table.arms == (
        Assignment(experiment="e", arm="control"),
        Assignment(experiment="e", arm="new", model="challenger", scenario="home-new"),
    )
    arms = {table.assign(f"user-{number}", {})[0].arm for number in range(50)}
    assert arms == {"control", "new"}
    assert len(table.fingerprint) == 64


def test_five_percent_of_the_users_where_the_file_says_nothing(tmp_path: Path) -> None:
    table = read(tmp_path, flags(layer("a", {"experiment": "e", "arm": "x"}, {"experiment": "e", "arm": "y"})))
    num_in = sum(bool(table.assign(f"user-{number}", {})) for number in range(20_000))
    assert 800 < num_in < 1200


def test_anonymous_callers_stick_to_the_key_that_the_flag_names_and_are_never_drawn(tmp_path: Path) -> None:
    table = read(tmp_path, LAYER)
    assert table.assign("", {}) == ()
    by_session = table.assign("", {"sessionId": "s-1"})
    assert len(by_session) == 1
    assert table.assign("", {"sessionId": "s-1", "device": "phone"}) == by_session
    by_tenant = read(tmp_path, LAYER.replace("rollout: 100", "rollout: 100, stickiness: tenant"))
    assert by_tenant.assign("somebody", {}) == ()
    assert by_tenant.assign("a", {"tenant": "t"}) == by_tenant.assign("b", {"tenant": "t"}) != ()


def test_any_text_that_a_caller_can_send_has_an_arm(tmp_path: Path) -> None:
    table = read(tmp_path, LAYER)
    for user_id in ("\ud800", "a\udfffb", "\x00", "é", "😀", "u" * 256):
        assert len(table.assign(user_id, {})) == 1
        assert len(table.assign("", {"sessionId": user_id})) == 1


def test_experiments_of_one_layer_exclude_each_other_and_layers_mix(tmp_path: Path) -> None:
    both = {"strategies": [{"parameters": {"rollout": 100}}]}
    table = read(
        tmp_path,
        flags(
            layer("one", {"experiment": "a", "model": "challenger"}, {"experiment": "b", "model": "7"}, **both),
            layer("two", {"experiment": "c", "scenario": "home"}, {"experiment": "c", "arm": "none"}, **both),
        ),
    )
    seen = {tuple(one.experiment for one in table.assign(f"user-{number}", {})) for number in range(200)}
    assert seen == {("a", "c"), ("b", "c")}
    arms = {tuple((one.experiment, one.arm) for one in table.assign(f"u{number}", {})) for number in range(400)}
    assert len(arms) == 4


def test_who_is_held_out_is_in_no_experiment(tmp_path: Path) -> None:
    holdout = {"name": "holdout", "strategies": [{"parameters": {"rollout": 30}}]}
    child = layer(
        "one",
        {"experiment": "a"},
        strategies=[{"parameters": {"rollout": 100}}],
        dependencies=[{"feature": "holdout", "enabled": False}],
    )
    table = read(tmp_path, flags(holdout, child))
    share = sum(bool(table.assign(f"user-{number}", {})) for number in range(5000)) / 5000
    assert 0.66 < share < 0.74
    off = read(tmp_path, flags({**holdout, "enabled": False}, child))
    assert all(off.assign(f"user-{number}", {}) for number in range(100))


def test_testers_have_the_arm_that_they_ask_for(tmp_path: Path) -> None:
    definition = layer("one", {"experiment": "a", "arm": "x"}, {"experiment": "a", "arm": "y"})
    definition["variants"][0]["overrides"] = [{"contextName": "userId", "values": ["tester-x"]}]
    definition["variants"][1]["overrides"] = [{"contextName": "userId", "values": ["tester-y"]}]
    definition["strategies"] = [
        {"name": "userWithId", "parameters": {"userIds": "tester-x, tester-y"}},
        {"name": "flexibleRollout", "parameters": {"rollout": 0}},
    ]
    table = read(tmp_path, flags(definition))
    assert [one.arm for one in table.assign("tester-x", {})] == ["x"]
    assert [one.arm for one in table.assign("tester-y", {})] == ["y"]
    assert table.assign("nobody", {}) == ()


def test_shares_are_those_of_strategies_that_hold_two_arms(tmp_path: Path) -> None:
    def variants(**weights: int) -> list[dict[str, Any]]:
        return [
            {"name": arm, "weight": weight, "payload": {"type": "json", "value": {"experiment": "e", "arm": arm}}}
            for arm, weight in weights.items()
        ]

    def shares(*strategies: list[dict[str, Any]]) -> dict[str, dict[str, int]]:
        parts = [{"parameters": {"rollout": 50}, "variants": part} for part in strategies]
        return read(tmp_path, flags({"name": "one", "strategies": parts})).shares

    testers = variants(x=1000)
    assert shares(testers, variants(control=900, x=100)) == {"e": {"control": 9, "x": 1}}
    assert shares(variants(control=600, x=200, off=200), variants(off=200, x=200, control=600)) == {
        "e": {"control": 3, "x": 1, "off": 1}
    }
    assert shares(testers) == {}
    assert shares(variants(control=1000, x=0)) == {}, "an arm without users"
    assert shares(variants(control=900, x=100), variants(control=500, x=500)) == {}, "two strategies disagree"
    definition = layer("one", {"experiment": "e", "arm": "x"}, {"experiment": "e", "arm": "y"})
    assert read(tmp_path, flags(definition)).shares == {"e": {"x": 1, "y": 1}}


def test_a_layer_can_be_limited_to_a_scenario_of_the_request(tmp_path: Path) -> None:
    strategy = {
        "parameters": {"rollout": 100},
        "constraints": [{"contextName": "scenario", "operator": "IN", "values": ["home"]}],
    }
    table = read(tmp_path, flags(layer("one", {"experiment": "a", "scenario": "home-new"}, strategies=[strategy])))
    assert table.assign("u", {}, "home")
    assert table.assign("u", {}, "detail") == ()
    assert table.assign("u", {"scenario": "home"}, "detail") == ()


@pytest.mark.parametrize(
    ("definitions", "expected"),
    [
        (
            [layer("one", {"experiment": "a", "model": "chalenger"})],
            "flag one: variants.0.payload.value.model: there is no alias or version 'chalenger' "
            "(aliases: 7, challenger, champion)",
        ),
        (
            [layer("one", {"experiment": "a", "scenario": "hone"})],
            "flag one: variants.0.payload.value.scenario: there is no policy of scenario 'hone' "
            "(configured: home, home-new)",
        ),
        (
            [layer("one", {"experiment": "a"}, strategies=[{"parameters": {"rollout": 101}}])],
            "flag one: strategies.0.parameters.rollout: must be a whole number of percent, 0 to 100 (got '101')",
        ),
        (
            [layer("one", {"experiment": "a"}, strategies=[{"parameters": {"rollout": 2.5}}])],
            "flag one: strategies.0.parameters.rollout: must be a whole number of percent, 0 to 100 (got '2.5')",
        ),
        (
            [{"name": "one", "variants": [{"name": "a", "weight": 700}, {"name": "b", "weight": 400}]}],
            "flag one: variants: the weights add up to 1100, more than 1000 (100 %)",
        ),
        (
            [{"name": "one", "variants": [{"name": "a", "weight": 700}, {"name": "b", "weight": 200}]}],
            "flag one: variants: the weights add up to 900, not 1000 (100 %): name what the others get, for example in "
            "a variant without payload",
        ),
        (
            [layer("one", {"experiment": "a", "arm": "x"}, {"experiment": "a", "arm": "x"})],
            "flag one: variants.1.payload: two variants are the arm 'x' of 'a'; arms differ",
        ),
        (
            [{"name": "one", "variants": [{"name": "a"}, {"name": "a"}]}],
            "flag one: variants.1.name: two variants are named 'a'; names differ",
        ),
        (
            [layer("one", {"experiment": "a", "model": "7"}), layer("two", {"experiment": "b", "model": "champion"})],
            "flag two: overlaps with flag one: arms of both set the model, and a user may be in both; make them "
            "variants of one flag",
        ),
        (
            [
                layer("one", {"experiment": "a", "scenario": "home"}),
                layer("two", {"experiment": "b", "scenario": "home"}),
            ],
            "flag two: overlaps with flag one: arms of both set the scenario, and a user may be in both; make them "
            "variants of one flag",
        ),
        (
            [layer("one", {"experiment": "a"}), layer("two", {"experiment": "a"})],
            "flag two: experiment 'a' is in flag one too; an experiment has one flag",
        ),
        (
            [layer("one", {"experiment": "a"}), layer("one", {"experiment": "b"})],
            "flag one: name: another flag has this name",
        ),
        (
            [{"name": "one", "variants": [{"name": "a", "payload": {"type": "json", "value": "{experiment: a}"}}]}],
            "flag one: variants.0.payload.value: is no JSON (Expecting property name enclosed in double quotes: line 1 "
            'column 2 (char 1)); write {"experiment": "...", "arm": "...", "model": "..."}',
        ),
        (
            [{"name": "one", "variants": [{"name": "a", "payload": {"type": "string", "value": "x"}}]}],
            "flag one: variants.0.payload.type: input should be 'json' (got 'string')",
        ),
        (
            [layer("one", {"experiment": "a", "modell": "7"})],
            "flag one: variants.0.payload.value.modell: there is no such key (there are: experiment, arm, model, "
            "scenario)",
        ),
        ([layer("one", {"arm": "a"})], "flag one: variants.0.payload.value.experiment: is missing"),
        (
            [layer("one", {"experiment": "a"}, strategies=[{"name": "gradualRolloutRandom"}])],
            "flag one: strategies.0.name: 'gradualRolloutRandom' cannot be decided by a request; use default, "
            "flexibleRollout, userWithId with constraints",
        ),
        (
            [{"name": "one", "strategies": [{"parameters": {"stickiness": "random"}}]}],
            "flag one: strategies.0.parameters.stickiness: random moves a user at every request; use default, userId, "
            "sessionId or a key of the context",
        ),
        (
            [
                layer(
                    "one",
                    {"experiment": "a"},
                    strategies=[{"constraints": [{"contextName": "v", "operator": "SEMVER_GT", "value": "1.0.0"}]}],
                )
            ],
            "flag one: strategies.0.constraints.0.operator: 'SEMVER_GT' is not decided here; use one of IN, NOT_IN, "
            "STR_CONTAINS, STR_STARTS_WITH, STR_ENDS_WITH, NUM_EQ, NUM_GT, NUM_GTE, NUM_LT, NUM_LTE",
        ),
        (
            [
                layer(
                    "one",
                    {"experiment": "a"},
                    strategies=[
                        {"constraints": [{"contextName": "remoteAddress", "operator": "IN", "values": ["::1"]}]}
                    ],
                )
            ],
            "flag one: strategies.0.constraints.0.contextName: remoteAddress is not known of a request; use userId, "
            "sessionId, scenario or a key of its context",
        ),
        (
            [layer("one", {"experiment": "a"}, dependencies=[{"feature": "gone"}])],
            "flag one: dependencies.0.feature: there is no flag 'gone' (there are: none)",
        ),
        (
            [layer("one", {"experiment": "a"}, strategies=[{"segments": [3]}])],
            "flag one: strategies.0.segments.0: there is no segment 3 (there are: none)",
        ),
        ([layer("one", {"experiment": "a"}, rollout=5)], "flag one: rollout: there is no such key"),
        ([{"name": "one", "enabled": "yes"}], "flag one: enabled: input should be a valid boolean (got 'yes')"),
        ([{"variants": []}], "flag features.0: name: is missing"),
        (["one"], "flag features.0: must be a mapping of keys to values (got 'one')"),
    ],
)
def test_refused_with_the_flag_the_field_and_what_is_allowed(
    tmp_path: Path, definitions: list[Any], expected: str
) -> None:
    found = problems(tmp_path, flags(*definitions))
    assert [problem.partition(": ")[2] for problem in found] == [expected]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "1: is empty; for no experiments write `features: []`"),
        ("features: 5", "1: features: must be a list (got 5)"),
        ("flags: []", "1: flags: there is no such key"),
        ("features:\n  - name: a\n    name: b", "3: key 'name' comes a second time; the first is in line 2"),
        (LAYER.replace("challenger", "other"), "8: flag homepage: strategies.0.variants.1.payload.value.model: there "
         "is no alias or version 'other' (aliases: 7, challenger, champion)"),
    ],
)  # fmt: skip
def test_the_line_is_named(tmp_path: Path, text: str, expected: str) -> None:
    assert problems(tmp_path, text) == [expected]


def test_every_problem_is_named_at_once(tmp_path: Path) -> None:
    found = problems(
        tmp_path,
        flags(
            layer("one", {"experiment": "a", "model": "no"}),
            layer("two", {"experiment": "b"}, strategies=[{"parameters": {"rollout": -1}}]),
        ),
    )
    assert len(found) == 2


def test_nothing_known_checks_no_name(tmp_path: Path) -> None:
    table = read(tmp_path, flags(layer("one", {"experiment": "a", "model": "x", "scenario": "y"})), Known())
    assert len(table.arms) == 1


def test_the_fingerprint_is_that_of_what_decides(tmp_path: Path) -> None:
    first = read(tmp_path, flags(layer("one", {"experiment": "a"}), {"name": "other"}))
    reordered = read(tmp_path, flags({"name": "other", "description": "new"}, layer("one", {"experiment": "a"})))
    changed = read(tmp_path, flags(layer("one", {"experiment": "b"}), {"name": "other"}))
    assert first.fingerprint == reordered.fingerprint != changed.fingerprint
