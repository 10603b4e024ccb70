"""Plans of canaries, and what is wrong with them in one line."""

from __future__ import annotations

import pytest

from inference_server.canary.plan import Plan, parsed_steps
from inference_server.core.errors import CanaryInvalid


def test_a_plan_survives_the_registry() -> None:
    plan = Plan(steps=parsed_steps("0.5, 5,25,100"), step_seconds=1.5, step_answers=7)
    assert Plan.from_json(plan.to_json()) == plan
    assert plan.shown_steps == "0.5,5,25,100"


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"steps": ()}, "steps: there must be 1 to 20 of them (got 0)"),
        ({"steps": (5.0, 5.0, 100.0)}, "steps: shares must ascend (got 5,5,100)"),
        ({"steps": (25.0, 5.0, 100.0)}, "steps: shares must ascend (got 25,5,100)"),
        ({"steps": (1.0, 101.0)}, "steps: 101 is no share of 0.01 to 100 percent"),
        ({"steps": (0.0, 100.0)}, "steps: 0 is no share of 0.01 to 100 percent"),
        ({"steps": (float("nan"), 100.0)}, "steps: nan is no share of 0.01 to 100 percent"),
        ({"steps": (1.0, 50.0)}, "steps: the last share must be 100 percent (got 1,50)"),
        ({"step_seconds": -1.0}, "step-seconds: must be 0 to 2592000 (got -1)"),
        ({"step_answers": 0}, "step-answers: must be 1 to 1000000000 (got 0)"),
    ],
)
def test_what_is_no_plan_is_refused_in_one_line(fields: dict[str, object], words: str) -> None:
    with pytest.raises(CanaryInvalid) as refused:
        Plan(**fields)  # type: ignore[arg-type]
    assert str(refused.value) == words


@pytest.mark.parametrize("text", ["", "a,b", "1;5"])
def test_steps_that_are_no_numbers(text: str) -> None:
    with pytest.raises(CanaryInvalid, match=r"^steps: must be percents with commas between them"):
        parsed_steps(text)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"steps": 1}', '{"steps": [1], "step_seconds": 1}'])
def test_tags_that_are_no_plan(text: str) -> None:
    with pytest.raises(CanaryInvalid, match="the plan of the canary cannot be read"):
        Plan.from_json(text)
