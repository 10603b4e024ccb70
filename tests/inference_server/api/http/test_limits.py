"""What the HTTP port takes before a key is checked, on real connections to a server in this process."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
import structlog

from inference_server.api.http import body
from inference_server.api.http.limits import HttpLimits, Limit, Refusals
from inference_server.core.settings import TlsFiles
from inference_server.model.serving_model import ModelSlot
from inference_server.security.tls import Certificates
from inference_server.telemetry.statistics import Statistics
from tests.inference_server.api.http.in_process import Served, served
from tests.inference_server.api.http.test_server import OneKey
from tests.support.certificates import Authority
from tests.support.serving import PATIENCE_SECONDS, valkey, wait_until

pytestmark = pytest.mark.process

ALIVE = b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n"
POST = b"POST /v1/recommend HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
CHUNKED = POST + b"transfer-encoding: chunked\r\n\r\n"


class Wire:
    """One connection, byte for byte."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def send(self, data: bytes) -> None:
        self._writer.write(data)
        await self._writer.drain()

    async def answer(self) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and body of the next answer."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            head = (await self._reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
            headers = dict(line.lower().split(": ", 1) for line in head[1:] if line)
            return int(head[0].split()[1]), headers, await self._reader.readexactly(int(headers["content-length"]))

    async def is_closed(self) -> bool:
        """Whether the server closes the connection, without a further byte."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            with contextlib.suppress(ConnectionResetError):
                return await self._reader.read() == b""
            return True

    async def close(self) -> None:
        self._writer.close()
        with contextlib.suppress(ConnectionError):
            await self._writer.wait_closed()


Connect = Callable[[Served], Awaitable[Wire]]


@pytest.fixture
async def connect() -> AsyncIterator[Connect]:
    made: list[Wire] = []

    async def connected(running: Served) -> Wire:
        made.append(Wire(*await asyncio.open_connection(*running.address)))
        return made[-1]

    yield connected
    for wire in made:
        await wire.close()


def lines(number: int) -> bytes:
    """A request with so many header lines."""
    return b"GET /healthz HTTP/1.1\r\n" + b"a: b\r\n" * number + b"\r\n"


class TestHead:
    @pytest.mark.parametrize(
        ("request_bytes", "status"),
        [
            (lines(100), 200),
            (lines(101), 431),
            (b"GET /healthz HTTP/1.1\r\nx: " + b"a" * 15_000 + b"\r\n\r\n", 200),
            (b"GET /healthz HTTP/1.1\r\nx: " + b"a" * 17_500, 431),
            (b"GET /healthz HTTP/1.1\r\nx:" + b" " * 17_500, 431),
            (b"GET /healthz HTTP/1.1\r\n" + b"a" * 17_500, 431),
            (b"GET /healthz?" + b"a" * (8192 - 9) + b" HTTP/1.1\r\n\r\n", 200),
            (b"GET /healthz?" + b"a" * (8193 - 9) + b" HTTP/1.1\r\n\r\n", 414),
            (b"GET /" + b"a" * 20_000, 414),
            (b"GET /" + b"a" * 20_000 + b" HTTP/1.1\r\n\r\n", 414),
            (b"\r\n" * 9_000, 431),
            (CHUNKED + b"2\r\n{}\r\n0\r\n" + b"a: b\r\n" * 4_000, 431),
            (CHUNKED + b"2\r\n{}\r\n0\r\nx: " + b"a" * 20_000, 431),
            (CHUNKED + b"2;x=" + b"a" * 20_000, 431),
            (CHUNKED + b"2;x=" + b"a" * 10_000 + b"\r\n{}\r\n0\r\n\r\n", 200),
            (CHUNKED + b"1\r\n{\r\n" + b"1\r\n \r\n" * 5_000 + b"1\r\n}\r\n0\r\n\r\n", 200),
            (CHUNKED + b"g\r\n", 400),
            (POST + b"content-length: 99999999999999999999999\r\n\r\n", 400),
            (POST + b"content-length: 1\r\ncontent-length: 2\r\n\r\n", 400),
            (POST + b"content-length: 2\r\ntransfer-encoding: chunked\r\n\r\n", 400),
            (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400),
            (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
            (b"GET /healthz HTTP/1.1\r\nno colon\r\n\r\n", 400),
            (b"GET /\xff HTTP/1.1\r\n\r\n", 400),
        ],
        ids=lambda value: f"{value[:40]!r}..{len(value)}" if isinstance(value, bytes) else str(value),
    )
    async def test_every_size_has_an_end(
        self, models: ModelSlot, connect: Connect, request_bytes: bytes, status: int
    ) -> None:
        async with served(models) as running:
            wire = await connect(running)
            await wire.send(request_bytes)
            got, headers, content = await wire.answer()
            assert got == status
            if status != 200:
                assert headers["content-type"] == "application/json"
                assert b'"code":%d' % status in content
                assert headers["connection"] == "close"
                assert await wire.is_closed()
                assert running.statistics.http_requests_by_status in ({str(status): 1}, {"499": 1})
                assert sum(running.statistics.http_refused_by_limit.values()) == 1

    async def test_a_trailer_is_no_header(self, models: ModelSlot, connect: Connect) -> None:
        async with served(models, api_keys=OneKey()) as running:
            wire = await connect(running)
            await wire.send(CHUNKED + b"2\r\n{}\r\n0\r\nx-api-key: secret\r\n\r\n")
            assert (await wire.answer())[0] == 401

    async def test_an_answer_before_the_end_of_its_request_closes_the_connection(
        self, models: ModelSlot, connect: Connect
    ) -> None:
        async with served(models, api_keys=OneKey()) as running:
            wire = await connect(running)
            await wire.send(POST + b"content-length: 100000\r\n\r\n{")
            status, headers, _ = await wire.answer()
            assert (status, headers["connection"]) == (401, "close")
            assert await wire.is_closed()


class TestTimes:
    async def test_a_slow_head_is_408(self, models: ModelSlot, connect: Connect) -> None:
        async with served(models, limits=HttpLimits(head_seconds=0.3)) as running:
            wire = await connect(running)
            await wire.send(b"GET /healthz HTTP/1.1\r\n")
            assert (await wire.answer())[0] == 408
            assert await wire.is_closed()
            assert running.statistics.http_refused_by_limit == {Limit.HEAD_SECONDS: 1}

    async def test_a_second_head_has_its_time_too(self, models: ModelSlot, connect: Connect) -> None:
        async with served(models, limits=HttpLimits(head_seconds=0.3)) as running:
            wire = await connect(running)
            await wire.send(ALIVE + b"GET /he")
            assert (await wire.answer())[0] == 200
            assert (await wire.answer())[0] == 408

    @pytest.mark.parametrize("sent", [b"", ALIVE], ids=["nothing sent", "after an answer"])
    async def test_an_idle_connection_is_closed_in_silence(
        self, models: ModelSlot, connect: Connect, sent: bytes
    ) -> None:
        async with served(models, limits=HttpLimits(idle_seconds=0.3)) as running:
            wire = await connect(running)
            if sent:
                await wire.send(sent)
                assert (await wire.answer())[0] == 200
            assert await wire.is_closed()
            assert not running.statistics.http_refused_by_limit

    async def test_line_ends_do_not_keep_a_connection(self, models: ModelSlot, connect: Connect) -> None:
        async with served(models, limits=HttpLimits(head_seconds=0.3)) as running:
            wire = await connect(running)
            await wire.send(b"\r\n")
            assert await wire.is_closed()

    async def test_a_body_that_does_not_begin_is_408(
        self, models: ModelSlot, connect: Connect, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(body, "_BODY_SECONDS", 0.05)
        async with served(models) as running:
            wire = await connect(running)
            await wire.send(POST + b"content-length: 9\r\n\r\n")
            assert (await wire.answer())[0] == 408

    async def test_a_handshake_that_does_not_end_is_ended(
        self, models: ModelSlot, connect: Connect, tmp_path: Path
    ) -> None:
        certificate, key = Authority().issue().write(tmp_path)
        certificates = Certificates(TlsFiles(certificate=certificate, key=key))
        async with served(models, certificates=certificates, limits=HttpLimits(handshake_seconds=0.3)) as running:
            wire = await connect(running)
            assert await wire.is_closed()
            assert running.statistics.http_refused_by_limit == {Limit.HANDSHAKE_SECONDS: 1}

    async def test_a_caller_who_reads_nothing_is_left(self, models: ModelSlot, connect: Connect) -> None:
        async with served(models, limits=HttpLimits(write_seconds=0.3)) as running:
            wire = await connect(running)
            sending = asyncio.ensure_future(wire.send(ALIVE * 200_000))
            await wait_until(
                lambda: running.statistics.http_refused_by_limit == {Limit.WRITE_SECONDS: 1}, "the caller is left"
            )
            with contextlib.suppress(ConnectionError):
                await sending


class TestConnections:
    async def test_a_new_connection_takes_the_place_of_the_one_idle_for_longest(
        self, models: ModelSlot, connect: Connect
    ) -> None:
        async with served(models, limits=HttpLimits(max_connections=2)) as running:
            first, second = await connect(running), await connect(running)
            for wire in (second, first):
                await wire.send(ALIVE)
                await wire.answer()
            third = await connect(running)
            await third.send(ALIVE)
            assert (await third.answer())[0] == 200
            assert await second.is_closed()
            await first.send(ALIVE)
            assert (await first.answer())[0] == 200
            assert running.statistics.http_refused_by_limit == {Limit.CONNECTIONS: 1}

    async def test_requests_in_progress_keep_their_connections(
        self, models: ModelSlot, connect: Connect, tmp_path: Path
    ) -> None:
        async with (
            valkey(tmp_path) as store,
            served(models, store_url=store.url, limits=HttpLimits(max_connections=1)) as running,
        ):
            store.pause()
            first = await connect(running)
            await first.send(POST + b'content-length: 15\r\n\r\n{"user_id":"u"}')
            await wait_until(lambda: running.admission.in_flight == 1, "the request is admitted")
            second = await connect(running)
            assert (await second.answer())[0] == 503
            store.resume()
            assert (await first.answer())[0] == 200

    async def test_connections_of_one_address(self, models: ModelSlot, connect: Connect) -> None:
        async with served(models, limits=HttpLimits(max_connections_per_address=1)) as running:
            first, second = await connect(running), await connect(running)
            assert (await second.answer())[0] == 429
            assert await second.is_closed()
            await first.send(ALIVE)
            assert (await first.answer())[0] == 200
            await first.close()
            third = await connect(running)
            await third.send(ALIVE)
            assert (await third.answer())[0] in {200, 429}

    async def test_the_connection_that_holds_most_gives_way(self, models: ModelSlot, connect: Connect) -> None:
        async with served(models, limits=HttpLimits(max_held_bytes=260_000)) as running:
            small, large, last = [await connect(running) for _ in range(3)]
            for wire, size in ((small, 50_000), (large, 140_000), (last, 80_000)):
                await wire.send(POST + b"content-length: 150000\r\n\r\n" + b" " * size)
            assert (await large.answer())[0] == 503
            assert running.statistics.http_refused_by_limit == {Limit.HELD_BYTES: 1}
            await small.send(b" " * 99_998 + b"{}")
            assert (await small.answer())[0] == 200


class TestPipelines:
    async def test_all_are_answered_in_order(self, models: ModelSlot, connect: Connect) -> None:
        async with served(models) as running:
            wire = await connect(running)
            sending = asyncio.ensure_future(wire.send((ALIVE + ALIVE.replace(b"healthz", b"nothing")) * 500))
            assert [(await wire.answer())[0] for _ in range(1000)] == [200, 404] * 500
            await sending

    async def test_what_is_wrong_is_said_after_the_answers_before_it(self, models: ModelSlot, connect: Connect) -> None:
        async with served(models) as running:
            wire = await connect(running)
            await wire.send(ALIVE * 3 + b"nonsense\r\n\r\n" + ALIVE)
            assert [(await wire.answer())[0] for _ in range(4)] == [200, 200, 200, 400]
            assert await wire.is_closed()

    async def test_a_caller_who_goes_leaves_no_trace(
        self, models: ModelSlot, connect: Connect, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        async with valkey(tmp_path) as store, served(models, store_url=store.url) as running:
            store.pause()
            for _ in range(20):
                wire = await connect(running)
                await wire.send((POST + b'content-length: 15\r\n\r\n{"user_id":"u"}') * 3)
                await wire.close()
            store.resume()
            await wait_until(lambda: running.statistics.http_requests_by_status, "the requests are over")
            assert (await running.client.get("/healthz")).status_code == 200
            assert not caplog.records


class TestForms:
    @pytest.mark.parametrize(
        ("request_bytes", "status"),
        [
            (b"GET /healthz HTTP/1.0\r\n\r\n", 200),
            (b"GET http://tandem.example:8080/healthz HTTP/1.1\r\nhost: x\r\n\r\n", 200),
            (b"GET HTTP://tandem.example/healthz?a=b HTTP/1.1\r\nhost: x\r\n\r\n", 200),
            (b"GET http://tandem.example HTTP/1.1\r\nhost: x\r\n\r\n", 404),
            (b"GET /h%65althz HTTP/1.1\r\nhost: x\r\n\r\n", 200),
            (b"GET /%ff HTTP/1.1\r\nhost: x\r\n\r\n", 404),
            (b"OPTIONS * HTTP/1.1\r\nhost: x\r\n\r\n", 404),
            (b"CONNECT tandem.example:443 HTTP/1.1\r\nhost: x\r\n\r\n", 404),
        ],
        ids=str,
    )
    async def test_of_a_request_line(
        self, models: ModelSlot, connect: Connect, request_bytes: bytes, status: int
    ) -> None:
        async with served(models) as running:
            wire = await connect(running)
            await wire.send(request_bytes)
            assert (await wire.answer())[0] == status

    async def test_a_body_is_asked_for(self, models: ModelSlot, connect: Connect) -> None:
        async with served(models) as running:
            wire = await connect(running)
            await wire.send(POST + b"content-length: 2\r\nexpect: 100-continue\r\n\r\n")
            with pytest.raises(KeyError):  # it has no length
                assert (await wire.answer())[0] == 100
            await wire.send(b"{}")
            assert (await wire.answer())[0] == 200

    async def test_an_upgrade_that_nobody_speaks_is_ignored(self, models: ModelSlot, connect: Connect) -> None:
        upgrade = b"connection: upgrade, http2-settings\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABkAAQAoAAAAAIAAAAA\r\n"
        async with served(models) as running:
            wire = await connect(running)
            for request in (ALIVE[:-2] + upgrade + b"\r\n", POST + upgrade + b"content-length: 2\r\n\r\n{}"):
                await wire.send(request + ALIVE)
                assert [(await wire.answer())[0] for _ in range(2)] == [200, 200]


def test_one_line_a_minute_for_each_limit() -> None:
    now = 0.0
    refusals = Refusals(Statistics(), clock=lambda: now)
    with structlog.testing.capture_logs() as logs:
        for second in range(0, 150, 10):
            now = float(second)
            refusals.count(Limit.HEAD, "192.0.2.1", status=431)
        refusals.count(Limit.URL, "192.0.2.2", status=414)
    assert [(line["limit"], line["count"], line["last_address"]) for line in logs] == [
        ("head", 1, "192.0.2.1"),
        ("head", 6, "192.0.2.1"),
        ("head", 6, "192.0.2.1"),
        ("url", 1, "192.0.2.2"),
    ]
