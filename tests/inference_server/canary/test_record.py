"""A canary in the tags of its version."""

from __future__ import annotations

from dataclasses import replace

import pytest

from inference_server.canary.plan import Plan
from inference_server.canary.record import STATE_TAG, STEP_TAG, CanaryRecord, canary_alias
from inference_server.core.canary_status import CanaryState
from inference_server.core.errors import CanaryInvalid
from tandem.ops.model_registry import RegisteredVersion

VERSION = RegisteredVersion("17", "m-17", "somewhere")


def record(number: int = 1) -> CanaryRecord:
    return CanaryRecord(
        version=VERSION,
        number=number,
        plan=Plan(steps=(5.0, 100.0), step_seconds=1.0, step_answers=2),
        alias="champion",
        against="16",
        started_at_seconds=1234.5,
        started_by="somebody@somewhere",
    )


def test_the_tags_say_everything() -> None:
    tagged = replace(VERSION, tags=dict(record().tags()))
    assert CanaryRecord.of(tagged) == record()
    ended = CanaryRecord.of(replace(tagged, tags={**tagged.tags, STATE_TAG: "taken_back", STEP_TAG: "1"}))
    assert ended is not None
    assert (ended.state, ended.step, ended.is_running) == (CanaryState.TAKEN_BACK, 1, False)


def test_a_second_attempt_has_a_name_of_its_own() -> None:
    assert [record(number).experiment for number in (1, 2)] == ["canary-17", "canary-17.2"]
    assert canary_alias("champion") == "champion-canary"


def test_a_version_that_was_never_one() -> None:
    assert CanaryRecord.of(VERSION) is None


@pytest.mark.parametrize("tags", [{STATE_TAG: "unheard of"}, {STEP_TAG: "7"}, {STEP_TAG: "x"}])
def test_tags_of_somebody_else_are_refused_in_one_line(tags: dict[str, str]) -> None:
    tagged = replace(VERSION, tags={**record().tags(), **tags})
    with pytest.raises(CanaryInvalid, match=r"the tags tandem.canary.\* of version 17 cannot be read"):
        CanaryRecord.of(tagged)
