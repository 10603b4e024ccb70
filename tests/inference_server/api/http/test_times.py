"""Times in JSON: one rule with gRPC, in words and with the field's name."""

from __future__ import annotations

from typing import Any

import pytest

from inference_server.api.http.app import _parsed
from inference_server.api.http.schemas import schema_documents
from inference_server.api.http.validation import PayloadCheck
from inference_server.api.wire_events import to_events
from inference_server.core.errors import InvalidRequest
from tandem.v1 import recommendation_pb2 as pb

CHECK = PayloadCheck(schema_documents()["record-events-request"])
RULE = "must be an existing time since 1970, in JSON for example 2026-01-31T12:00:00Z"


def payload(occurred_at: Any) -> dict[str, Any]:
    event = {"event_id": "e", "user_id": "u", "item_id": "i", "type": "EVENT_TYPE_CLICK"}
    return {"events": [event, {**event, "occurred_at": occurred_at}]}


@pytest.mark.parametrize(
    "text",
    [
        *("2026-02-30T10:00:00Z", "2023-02-29T10:00:00Z", "2026-04-31T00:00:00.5+05:30", "2026-13-01T00:00:00Z"),
        *("2026-02-28T25:00:00Z", "2026-02-28T10:00:60Z", "2026-02-28T10:00:00", "2026-02-28 10:00:00Z", "2026-02-28"),
        *("1969-12-31T23:59:59Z", "1970-01-01T00:00:00+01:00", "9999-12-31T23:59:59-01:00", "yesterday", ""),
    ],
)
def test_a_time_that_does_not_exist_is_refused_by_its_field_in_words(text: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        to_events(_parsed(pb.RecordEventsRequest, CHECK, payload(text)))
    assert str(caught.value) == f"events[1].occurred_at: {RULE}"


@pytest.mark.parametrize("at", [{"seconds": -1}, {"seconds": 1, "nanos": -1}, {"seconds": 1, "nanos": 10**9}])
def test_over_grpc_the_words_are_the_same(at: dict[str, int]) -> None:
    event = pb.Event(event_id="e", user_id="u", item_id="i", type=pb.EVENT_TYPE_CLICK, occurred_at=at)
    with pytest.raises(InvalidRequest) as caught:
        to_events(pb.RecordEventsRequest(events=[event]))
    assert str(caught.value) == f"events[0].occurred_at: {RULE}"


@pytest.mark.parametrize(
    ("text", "microseconds"),
    [
        ("2024-02-29T10:00:00Z", 1_709_200_800_000_000),
        ("1970-01-01T01:00:00.000001+01:00", 1),
        ("1970-01-01T00:00:00Z", 0),
    ],
)
def test_a_time_that_exists_is_read(text: str, microseconds: int) -> None:
    assert to_events(_parsed(pb.RecordEventsRequest, CHECK, payload(text)))[1].occurred_at == microseconds
