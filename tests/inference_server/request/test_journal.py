"""Which answers become impressions, and what an impression says of its answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from inference_server.core.answers import Answer
from inference_server.core.degradation import Degraded, Source
from inference_server.model.serving_model import ServingModel
from inference_server.request.journal import Journal
from inference_server.telemetry.tracing import Tracing
from tandem.contract.experiments import Assignment
from tandem.contract.impressions import Impression, ShownArm
from tests.inference_server.request.requests_at_stages import admitted

ANSWER = Answer(
    request_id="r",
    item_ids=["a", "b"],
    scores=[2.0, 1.0],
    reasons=None,
    model_version="m",
    variant="champion",
    source=Source.RETRIEVED,
    degraded_reasons=(Degraded.RANKER_SKIPPED,),
    sources=["two_tower", "popular"],
    assignments=(Assignment(experiment="e", arm="b", model="x", exposed=False),),
)


class Kept:
    """Keeps what it is given."""

    def __init__(self) -> None:
        self.impressions: list[Impression] = []

    def write(self, impressions: Sequence[Impression], /) -> None:
        self.impressions += impressions


async def test_an_impression_says_what_was_shown_and_how_it_came_about(model: ServingModel) -> None:
    kept = Kept()
    request = admitted(model, user_id="u", context={"placement": "top", "hour": "9"}, scenario="home")
    Journal(Tracing("", sample_ratio=0.0), [kept]).write(replace(request, policies_fingerprint="f"), ANSWER, None)
    (impression,) = kept.impressions
    assert impression.timestamp > 1_700_000_000_000_000
    assert impression.latency_us is not None
    assert impression.latency_us > 0
    assert replace(impression, timestamp=0, latency_us=None) == Impression(
        request_id="r",
        timestamp=0,
        user_id="u",
        scenario="home",
        placement="top",
        context={"placement": "top", "hour": "9"},
        model_version="m",
        variant="champion",
        policy_fingerprint="f",
        answer_source="retrieved",
        degraded_reasons=(Degraded.RANKER_SKIPPED,),
        assignments=[ShownArm("e", "b", exposed=False)],
        item_ids=["a", "b"],
        sources=["two_tower", "popular"],
        scores=[2.0, 1.0],
        propensities=[1.0, 1.0],
    )
    assert Impression.from_bytes(impression.to_bytes()).answer_source == "retrieved"


async def test_an_impression_of_an_answer_that_explored_tells_ranks_and_candidates(model: ServingModel) -> None:
    kept = Kept()
    explored = replace(ANSWER, propensities=[0.9, 0.01], num_candidates=40, ranks=[0, 17])
    Journal(Tracing("", sample_ratio=0.0), [kept]).write(admitted(model), explored, None)
    (impression,) = kept.impressions
    assert (impression.propensities, impression.num_candidates, impression.ranks) == ([0.9, 0.01], 40, [0, 17])
    assert Impression.from_bytes(impression.to_bytes()).ranks == (0, 17)


@pytest.mark.parametrize(("share", "least", "most"), [(0.0, 0, 0), (0.25, 200, 300), (1.0, 1000, 1000)])
async def test_a_share_is_chosen_by_request_id(model: ServingModel, share: float, least: int, most: int) -> None:
    chosen = []
    for _ in range(2):
        kept = Kept()
        journal = Journal(Tracing("", sample_ratio=0.0), [kept], impressions_share=share)
        for number in range(1000):
            journal.write(admitted(model), replace(ANSWER, request_id=f"{number:032x}"), None)
        chosen.append([impression.request_id for impression in kept.impressions])
    assert least <= len(chosen[0]) <= most
    assert chosen[0] == chosen[1]
