"""Messages that cannot be decoded, and bugs of ours, in every method of every service of the server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from typing import Any

import grpc
import pytest
import structlog
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2

from inference_server.api.grpc.health import Health
from inference_server.api.grpc.server import HOT_METHODS, SERVICE_NAME
from inference_server.model.serving_model import ModelSlot
from inference_server.security.api_keys import ApiKeys, key_line
from inference_server.security.files import Security
from inference_server.telemetry import logs as telemetry_logs
from inference_server.telemetry.line_limit import LineLimit
from tandem.v1 import recommendation_pb2 as pb
from tests.inference_server.api.grpc.served import EMPTY_MESSAGE, raw_call, served
from tests.inference_server.in_process import Parts, in_process
from tests.support.serving import PATIENCE_SECONDS

pytestmark = pytest.mark.process

KEY = [("x-api-key", "the-key-of-the-shop")]
BATCH = f"{SERVICE_NAME}/RecommendBatch"
NOT_PROTOBUF = b"\xff"
NOT_UTF8 = b"\x0a\x02\xff\xfe"  # field 1, which is a string in most requests
ENDS_TOO_EARLY = b"\x0a\x05a"
FIRST_FIELD_IS_TEXT = {
    f"{SERVICE_NAME}/Recommend",
    f"{SERVICE_NAME}/SimilarItems",
    "grpc.health.v1.Health/Check",
    "grpc.health.v1.Health/Watch",
    "grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
    "grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
}


@pytest.fixture(scope="module", params=["without keys", "with keys"])
def security(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Security:
    if request.param == "without keys":
        return Security()
    path = tmp_path_factory.mktemp("keys") / "keys"
    path.write_text(f"{key_line('shop', KEY[0][1])}\n")
    return Security(api_keys=ApiKeys.load(path))


@pytest.fixture
async def parts(models: ModelSlot, security: Security) -> AsyncIterator[Parts]:
    async with in_process(models, reflection_enabled=True, security=security) as parts:
        yield parts


@pytest.fixture
async def channel(parts: Parts) -> AsyncIterator[grpc.aio.Channel]:
    async with grpc.aio.insecure_channel(f"127.0.0.1:{parts.server.port}") as channel:
        yield channel


async def outcome(
    channel: grpc.aio.Channel, method: str, messages: Iterable[bytes], metadata: Any = KEY
) -> tuple[str, str, list[bytes]]:
    """Status, details and responses of a call with any number of messages, whatever the type of the method."""
    call = channel.stream_stream(f"/{method}")(iter(messages), metadata=metadata, timeout=PATIENCE_SECONDS)
    responses = []
    try:
        async for response in call:
            responses.append(response)  # noqa: PERF401 - those before an error count too
    except grpc.aio.AioRpcError as error:
        return error.code().name, error.details() or "", responses
    return "OK", "", responses


def test_the_methods_are_those_that_are_served(parts: Parts) -> None:
    services = {method.split("/")[0] for method in parts.server.methods}
    assert services == {
        SERVICE_NAME,
        "grpc.health.v1.Health",
        "grpc.channelz.v1.Channelz",
        "grpc.reflection.v1alpha.ServerReflection",
        "grpc.reflection.v1.ServerReflection",
    }


async def test_a_message_that_cannot_be_decoded_is_the_callers_mistake_in_every_method(
    parts: Parts, channel: grpc.aio.Channel, caplog: pytest.LogCaptureFixture
) -> None:
    with structlog.testing.capture_logs() as lines:
        for method in parts.server.methods:
            broken = [NOT_PROTOBUF, ENDS_TOO_EARLY] + [NOT_UTF8] * (method in FIRST_FIELD_IS_TEXT)
            for number, message in enumerate(broken, start=1):
                status, details, responses = await outcome(channel, method, [message])
                if method == BATCH:
                    assert (status, len(responses)) == ("OK", 1)
                    error = pb.RecommendBatchResponse.FromString(responses[0]).error
                    assert (error.code, error.field) == (3, "message[0]")
                    assert error.message.startswith("message[0]: cannot be decoded: ")
                else:
                    assert (status, responses) == ("INVALID_ARGUMENT", []), method
                    assert details.startswith("message: cannot be decoded: Error parsing message with type '"), method
                assert parts.statistics.undecodable_by_method[method] == number
    assert not caplog.records, "grpcio writes nothing"
    kinds = [(line["event"], line["method"]) for line in lines]
    assert {event for event, _ in kinds} == {"message_undecodable"}
    assert {method for _, method in kinds} == set(parts.server.methods)
    assert all("exc_info" not in line for line in lines)


async def test_a_call_that_needs_a_message_and_has_none_is_not_left_waiting(
    parts: Parts, channel: grpc.aio.Channel
) -> None:
    streamed = {BATCH, *(method for method in parts.server.methods if "ServerReflection" in method)}
    assert set(parts.server.methods) > HOT_METHODS
    for method in set(parts.server.methods) - HOT_METHODS:
        status, details, responses = await outcome(channel, method, [])
        if method in streamed:
            assert (status, responses) == ("OK", [])
        else:
            assert (status, details) == ("INVALID_ARGUMENT", "message: is missing: the call ended without one")


async def test_without_a_key_nothing_is_decoded_but_healths_messages(
    parts: Parts, channel: grpc.aio.Channel, security: Security
) -> None:
    if security.api_keys is None:
        pytest.skip("no key is needed")
    for method in parts.server.methods:
        status, _, _ = await outcome(channel, method, [NOT_PROTOBUF], metadata=[])
        assert status == ("INVALID_ARGUMENT" if method.startswith("grpc.health.") else "UNAUTHENTICATED")
    assert {method for method, count in parts.statistics.undecodable_by_method.items() if count} == {
        method for method in parts.server.methods if method.startswith("grpc.health.")
    }


async def test_the_log_has_one_line_a_second_of_each_method(parts: Parts, channel: grpc.aio.Channel) -> None:
    seconds = asyncio.get_running_loop().time
    with structlog.testing.capture_logs() as lines:
        began = seconds()
        for _ in range(100):
            await outcome(channel, "grpc.health.v1.Health/Check", [NOT_PROTOBUF], metadata=[])
            await outcome(channel, f"{SERVICE_NAME}/Recommend", [NOT_PROTOBUF])
        took = seconds() - began
    assert 2 <= len(lines) <= 2 * (1 + took)
    assert parts.statistics.undecodable_by_method["grpc.health.v1.Health/Check"] == 100


async def test_every_method_answers_an_empty_message_without_a_fault(
    parts: Parts, channel: grpc.aio.Channel, caplog: pytest.LogCaptureFixture
) -> None:
    with structlog.testing.capture_logs() as lines:
        for method in parts.server.methods:
            if method.endswith("/Watch"):
                continue  # it goes on for as long as the server does
            status, details, _ = await outcome(channel, method, [b""])
            assert status in {"OK", "INVALID_ARGUMENT", "NOT_FOUND", "UNAVAILABLE"}, (method, status, details)
    assert not caplog.records
    assert not [line for line in lines if line["log_level"] == "error"]


async def test_an_entry_that_cannot_be_decoded_costs_one_answer(parts: Parts, channel: grpc.aio.Channel) -> None:
    good = [
        pb.RecommendBatchRequest(correlation_id=str(number), request=pb.RecommendRequest(num_items=number))
        for number in (1, 2)
    ]
    entries = [good[0].SerializeToString(), NOT_PROTOBUF, good[1].SerializeToString(), NOT_UTF8, ENDS_TOO_EARLY]
    status, _, answers = await outcome(channel, BATCH, entries)
    assert status == "OK"
    responses = [pb.RecommendBatchResponse.FromString(answer) for answer in answers]
    assert {answer.correlation_id: len(answer.response.items) for answer in responses if answer.correlation_id} == {
        "1": 1,
        "2": 2,
    }
    assert sorted(answer.error.field for answer in responses if answer.HasField("error")) == [
        "message[1]",
        "message[3]",
        "message[4]",
    ]
    assert parts.statistics.undecodable_by_method[BATCH] == 3
    assert parts.admission.in_flight == 0


async def test_reflection_is_there_under_both_names_and_describes_both(channel: grpc.aio.Channel) -> None:
    asked = [
        reflection_pb2.ServerReflectionRequest(list_services=""),
        reflection_pb2.ServerReflectionRequest(file_containing_symbol=SERVICE_NAME),
        reflection_pb2.ServerReflectionRequest(file_containing_symbol="grpc.reflection.v1.ServerReflection"),
        reflection_pb2.ServerReflectionRequest(file_containing_symbol="grpc.reflection.v1alpha.ServerReflection"),
        reflection_pb2.ServerReflectionRequest(file_containing_symbol="no.such.Symbol"),
    ]
    for version in ("v1", "v1alpha"):
        method = f"grpc.reflection.{version}.ServerReflection/ServerReflectionInfo"
        status, _, answers = await outcome(channel, method, [message.SerializeToString() for message in asked])
        assert status == "OK"
        names, *files, unknown = [reflection_pb2.ServerReflectionResponse.FromString(answer) for answer in answers]
        listed = {service.name for service in names.list_services_response.service}
        assert {"grpc.reflection.v1.ServerReflection", "grpc.reflection.v1alpha.ServerReflection"} <= listed
        assert all(len(file.file_descriptor_response.file_descriptor_proto) for file in files)
        assert unknown.error_response.error_code == grpc.StatusCode.NOT_FOUND.value[0]


async def test_health_lists_every_service(parts: Parts, channel: grpc.aio.Channel) -> None:
    stub = health_pb2_grpc.HealthStub(channel)
    await parts.server.set_serving()
    listed = await stub.List(health_pb2.HealthListRequest())
    serving = health_pb2.HealthCheckResponse.SERVING
    assert {name: answer.status for name, answer in listed.statuses.items()} == {"": serving, SERVICE_NAME: serving}


class Failing(Health):
    """A servicer with bugs."""

    async def Check(self, request: object, context: Any) -> Any:  # noqa: N802, ARG002
        raise KeyError("secret")

    async def List(self, request: object, context: Any) -> Any:  # noqa: N802, ARG002
        return object()  # which cannot be encoded

    async def Watch(self, request: object, context: Any) -> AsyncIterator[object]:  # type: ignore[override]  # noqa: N802, ARG002
        yield health_pb2.HealthCheckResponse()
        raise ExceptionGroup("group", [KeyError("secret")])


async def test_a_bug_in_any_method_is_internal_with_an_id_of_ours(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("inference_server.api.grpc.server.Health", Failing)
    monkeypatch.setattr(telemetry_logs, "_failures", LineLimit())
    async with served() as server, grpc.aio.insecure_channel(server.address) as channel:
        for method, num_answers in (("Check", 0), ("List", 0), ("Watch", 1), ("Check", 0)):
            with structlog.testing.capture_logs() as lines:
                status, details, answers = await outcome(channel, f"grpc.health.v1.Health/{method}", [b""])
            (line,) = lines
            assert (status, details) == ("INTERNAL", f"internal error, request_id {line['request_id']}")
            assert len(answers) == num_answers
            assert line["event"] == "request_failed"
    assert not caplog.records
    assert line["error"] == "KeyError"
    assert "exc_info" not in line, "the second stack trace from one place within a second is left out"


async def test_metadata_that_is_not_text_is_no_stack_trace(caplog: pytest.LogCaptureFixture) -> None:
    limited = telemetry_logs.LibraryLines()
    caplog.handler.addFilter(limited.admits)
    async with served() as server:
        for _ in range(20):
            answer = await raw_call(server.port, extra=[(b"x-a", b"\xff\xfe")], data=EMPTY_MESSAGE)
            assert b"grpc-status\x010" in answer
    caplog.handler.removeFilter(limited.admits)
    assert 1 <= len(caplog.records) < 20
    for record in caplog.records:
        assert record.exc_info is None
        assert record.getMessage().startswith("received text that is not UTF-8")


async def test_channelz_does_not_find_what_does_not_exist(channel: grpc.aio.Channel) -> None:
    for method in ("GetServer", "GetServerSockets", "GetChannel", "GetSubchannel", "GetSocket"):
        status, details, _ = await outcome(channel, f"grpc.channelz.v1.Channelz/{method}", [b""])
        assert (status, details.startswith("Failed to get the ")) == ("NOT_FOUND", True), method
