"""Supervisor and worker understand each other, and notice when the other is gone."""

from __future__ import annotations

import socket

import pytest

from inference_server.control.messages import (
    BreakerChanged,
    BundleNotOpened,
    BundleReady,
    BundleServing,
    CloseBundle,
    ControlChannel,
    DependencyChanged,
    FurtherModels,
    Listen,
    Listening,
    Message,
    OpenBundle,
    RefusalsCounted,
    ServeBundle,
    StatisticsReported,
    StatisticsRequested,
    WithdrawModel,
    WorkerFailed,
    from_line,
    to_line,
)
from inference_server.control.snapshot import to_plain
from inference_server.telemetry.statistics import Statistics

MESSAGES: list[Message] = [
    Listen(grpc_port=1, http_port=2),
    Listening(grpc_port=1),
    OpenBundle(bundle=1, directory="/a b/ü", registry_version="3"),
    BundleReady(bundle=1),
    BundleNotOpened(bundle=2, reason_kind="corrupt", reason="line one\nline two"),
    ServeBundle(bundle=1, order=7, variant="champion"),
    ServeBundle(bundle=1, order=8, variant="challenger", is_further=True),
    WithdrawModel(name="challenger"),
    FurtherModels(problems={"challenger": "", "17": "no such version"}),
    BundleServing(order=7, switched_at_seconds=12.5),
    CloseBundle(bundle=1),
    RefusalsCounted(by_kind={"corrupt": 1}, last="corrupt: x", bundles=[{"reason": "corrupt: x"}]),
    DependencyChanged(dependency="registry", up=False),
    BreakerChanged(name="registry", state="open"),
    StatisticsRequested(request=7),
    StatisticsReported(request=7, statistics={"user_tower_runs": 3}),
    WorkerFailed(reason="no port"),
]


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: type(message).__name__)
def test_a_message_is_one_line_and_comes_back_equal(message: Message) -> None:
    line = to_line(message)
    assert line.count(b"\n") == 1
    assert from_line(line) == message


async def test_statistics_of_a_worker_fit_into_a_message() -> None:
    left, right = socket.socketpair()
    ours, theirs = await ControlChannel.over(left), await ControlChannel.over(right)
    statistics = Statistics()
    for number in range(5000):
        statistics.requests_by_code[f"code {number}"] += 1
    await ours.send(StatisticsReported(request=1, statistics=to_plain(statistics)))
    received = await theirs.receive()
    assert isinstance(received, StatisticsReported)
    assert len(received.statistics["requests_by_code"]["pairs"]) == 5000
    await ours.close()
    await theirs.close()


async def test_messages_arrive_in_order_and_the_end_is_none() -> None:
    left, right = socket.socketpair()
    ours, theirs = await ControlChannel.over(left), await ControlChannel.over(right)
    for message in MESSAGES:
        await ours.send(message)
    assert [await theirs.receive() for _ in MESSAGES] == MESSAGES
    await ours.close()
    assert await theirs.receive() is None
    await theirs.close()


async def test_sending_to_nobody_is_no_error() -> None:
    left, right = socket.socketpair()
    channel = await ControlChannel.over(left)
    right.close()
    for message in MESSAGES:
        await channel.send(message)
    assert await channel.receive() is None
    await channel.close()
