"""Supervisor and worker understand each other, and notice when the other is gone."""

from __future__ import annotations

import socket

import pytest

from inference_server.control import (
    BundleOpened,
    BundleRefused,
    ControlChannel,
    DependencyChanged,
    Listening,
    Message,
    OpenBundle,
    from_line,
    to_line,
)

MESSAGES = [
    OpenBundle(directory="/a b/ü", registry_version="3", variant="champion"),
    DependencyChanged(dependency="registry", up=False),
    BundleRefused(registry_version="4", reason_kind="corrupt", reason="line one\nline two"),
    Listening(grpc_port=1, http_port=3, metrics_port=2),
    BundleOpened(registry_version="3", model_version="m"),
]


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: type(message).__name__)
def test_a_message_is_one_line_and_comes_back_equal(message: Message) -> None:
    line = to_line(message)
    assert line.count(b"\n") == 1
    assert from_line(line) == message


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
