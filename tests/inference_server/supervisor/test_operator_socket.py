"""The operator socket: whatever is sent gets one line that says what is wrong, and the server goes on."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from inference_server.supervisor.operator_socket import Command, ask_server, listen_to_operators

pytestmark = pytest.mark.process


async def handle(command: Command) -> AsyncIterator[str]:
    yield f"did {command.name}"


@pytest.mark.parametrize(
    "sent",
    [
        b"\n",
        b"[]\n",
        b"x" * 200_000 + b"\n",
        b"[" * 60_000 + b"\n",
        b"[" * 4_000 + b"\n",
        b'{"name": "x", "unknown": 1}\n',
        b'{"name": 1, "to": []}\n',
        b"\xff\xfe\n",
        b'{"name": "no end of line"}',
    ],
    ids=lambda sent: f"{sent[:12]!r} {len(sent)}",
)
async def test_what_is_no_command_gets_one_line(tmp_path: Path, sent: bytes) -> None:
    problems: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: problems.append(context))
    async with listen_to_operators(tmp_path, handle):
        reader, writer = await asyncio.open_unix_connection(tmp_path / "control.sock")
        writer.write(sent)
        writer.write_eof()
        reply = json.loads(await reader.readline())
        assert reply["done"] is False
        assert reply["text"].startswith("not a command: ")
        assert await reader.read() == b""
        writer.close()
        replies = [one.text async for one in ask_server(tmp_path, Command(name="rollback"))]
        assert replies == ["did rollback"]
    assert problems == []
