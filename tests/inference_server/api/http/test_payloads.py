"""The HTTP API agrees with the .proto files and with gRPC: checks that need no server."""

from __future__ import annotations

import json

import jsonschema_rs
import numpy as np
import pytest
from google.protobuf.json_format import MessageToDict, Parse
from google.protobuf.message import Message
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from inference_server.api.grpc.status_of_errors import STATUS_OF as GRPC_STATUS_OF
from inference_server.api.http.errors import STATUS_OF
from inference_server.api.http.responses import recommend_payload, similar_items_payload
from inference_server.api.http.schemas import LIMITS, components, schema_documents
from inference_server.api.wire import to_response, to_similar_response
from inference_server.core.answers import Answer, Reason
from inference_server.core.degradation import Degraded, Source
from inference_server.core.request_warnings import RequestWarning, WarningKind
from tandem.contract.experiments import Assignment
from tandem.v1 import recommendation_pb2 as pb

# protobuf's JSON reader takes the digits of the very largest float32 for a larger number.
floats = st.floats(-(2.0**127), 2.0**127, width=32)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
reasons = st.builds(
    Reason,
    source=texts,
    because_item_ids=st.lists(texts, max_size=3).map(tuple),
    score_parts=st.dictionaries(texts, floats, max_size=3),
    title=texts,
    propensity=floats,
)


@st.composite
def answers(draw: st.DrawFn) -> Answer:
    item_ids = draw(st.lists(texts, max_size=5))
    exactly = {"min_size": len(item_ids), "max_size": len(item_ids)}
    return Answer(
        request_id=draw(texts),
        item_ids=item_ids,
        scores=draw(st.lists(floats, **exactly)),
        reasons=draw(st.none() | st.lists(reasons, **exactly)),
        model_version=draw(texts),
        variant=draw(texts),
        source=draw(st.sampled_from(Source)),
        degraded_reasons=draw(st.lists(st.sampled_from(Degraded), unique=True).map(tuple)),
        next_page_token=draw(texts),
        assignments=draw(
            st.lists(st.builds(Assignment, experiment=texts, arm=texts, exposed=st.booleans())).map(tuple)
        ),
        warnings=draw(st.lists(st.builds(RequestWarning, st.sampled_from(WarningKind), texts), max_size=2).map(tuple)),
    )


def as_json(message: Message) -> object:
    """The message as the library writes it, its floats read with 32 bits."""
    written = MessageToDict(message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True)
    return as_float32(written)


def as_float32(value: object) -> object:
    if isinstance(value, float):
        return np.float32(value)
    if isinstance(value, dict):
        return {name: as_float32(entry) for name, entry in value.items()}
    return [as_float32(entry) for entry in value] if isinstance(value, list) else value


class TestAnswers:
    @given(answer=answers())
    @hypothesis_settings(deadline=None)
    def test_recommend_writes_what_the_message_would_be(self, answer: Answer) -> None:
        payload = recommend_payload(answer)
        message = to_response(answer)
        assert as_float32(payload) == as_json(message)
        assert Parse(json.dumps(payload), pb.RecommendResponse()) == message
        jsonschema_rs.validate(schema_documents()["recommend-response"], payload)

    @given(answer=answers())
    @hypothesis_settings(deadline=None)
    def test_similar_items_writes_what_the_message_would_be(self, answer: Answer) -> None:
        payload = similar_items_payload(answer)
        message = to_similar_response(answer)
        assert as_float32(payload) == as_json(message)
        assert Parse(json.dumps(payload), pb.SimilarItemsResponse()) == message
        jsonschema_rs.validate(schema_documents()["similar-items-response"], payload)

    def test_scores_have_as_few_digits_as_tell_them_apart(self) -> None:
        answer = Answer(
            request_id="",
            item_ids=["a", "b"],
            scores=[float(np.float32(0.1)), 1.0],
            reasons=None,
            model_version="",
            variant="",
            source=Source.RETRIEVED,
            degraded_reasons=(),
        )
        assert [item["score"] for item in recommend_payload(answer)["items"]] == [0.1, 1.0]


class TestSchemas:
    @pytest.mark.parametrize("limit", LIMITS)
    def test_a_limit_is_of_a_field_that_exists(self, limit: str) -> None:
        message, _, field = limit.removesuffix("[]").partition(".")
        found = pb.DESCRIPTOR.message_types_by_name[message].fields_by_name[field]
        assert found.is_repeated or not limit.endswith("[]")

    def test_empty_lists_are_promised(self) -> None:
        assert {"items", "degraded_reasons"} <= set(schema_documents()["recommend-response"]["required"])

    def test_requests_are_closed_and_responses_open(self) -> None:
        documents = schema_documents()
        request, response = documents["recommend-request"], documents["recommend-response"]
        assert request["additionalProperties"] is False
        assert all(part["additionalProperties"] is False for part in request["$defs"].values())
        assert "additionalProperties" not in response
        assert all("additionalProperties" not in part for part in response["$defs"].values())

    def test_numbers_of_64_bits_are_text(self) -> None:
        status = schema_documents()["status-response"]["properties"]
        assert status["bundles_refused"]["type"] == "string"
        assert status["answers_by_source"]["additionalProperties"]["type"] == "string"

    def test_components_refer_to_each_other(self) -> None:
        found = components()
        text = json.dumps(found)
        references = {part.partition('"')[0] for part in text.split("#/components/schemas/")[1:]}
        assert references <= set(found)
        assert "$defs" not in text


def test_every_error_has_the_status_that_grpc_gives_it() -> None:
    assert {kind: name for kind, (_, name) in STATUS_OF.items()} == {
        kind: status.name for kind, status in GRPC_STATUS_OF.items()
    }
