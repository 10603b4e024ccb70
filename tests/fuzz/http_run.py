"""Sends fuzzed requests to a running HTTP server and records how they are answered."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Final

from tests.fuzz.http_requests import Requests
from tests.fuzz.outcome import FuzzOutcome, resident_bytes

_CONNECTIONS: Final = 32
_ANSWER_SECONDS: Final = 30.0
_UNFINISHED_SECONDS: Final = 0.2
"""How long an answer to bytes that may be no whole request is waited for."""
_SAMPLES: Final = 20
_NO_FAULTS: Final = frozenset({503, 504})
"""Statuses from 500 on that say that something else failed, or the caller's time."""


@dataclass(kw_only=True)
class HttpOutcome(FuzzOutcome):
    """How all requests of a run were answered."""

    num_requests: int = 0
    statuses: Counter[int] = field(default_factory=Counter)
    """Answers by status; 0: none."""


async def fuzz_http(
    port: int, *, num_requests: int, seed: int, server_pid: int, max_seconds: float = float("inf")
) -> HttpOutcome:
    """Sends `num_requests` requests, or as many as `max_seconds` allow, each on a connection of its own."""
    outcome, requests = HttpOutcome(), Requests(seed)
    started = time.monotonic()

    async def send_all() -> None:
        while outcome.num_requests < num_requests and time.monotonic() - started < max_seconds:
            if outcome.num_requests % max(1, num_requests // _SAMPLES) == 0:
                outcome.resident_bytes.append(resident_bytes(server_pid))
            outcome.num_requests += 1
            request = requests.request()
            status = await _status(port, request)
            outcome.statuses[status] += 1
            if status >= 500 and status not in _NO_FAULTS:
                outcome.add_fault(f"{status} {request[:300]!r}")

    await asyncio.gather(*(send_all() for _ in range(_CONNECTIONS)))
    outcome.resident_bytes.append(resident_bytes(server_pid))
    outcome.seconds = time.monotonic() - started
    return outcome


async def _status(port: int, request: bytes) -> int:
    """The status of the answer; 0 if there is none."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(request)
        async with asyncio.timeout(_ANSWER_SECONDS if request.endswith((b"}", b"0\r\n\r\n")) else _UNFINISHED_SECONDS):
            while True:
                line = await reader.readline()
                if not line.startswith(b"HTTP/1.1 100"):
                    return int(line.split()[1]) if line.startswith(b"HTTP/1.1 ") else 0
                await reader.readline()
    except (TimeoutError, ConnectionError):
        return 0
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()
