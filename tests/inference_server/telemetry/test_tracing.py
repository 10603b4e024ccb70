"""Traces: the span tree that a collector gets, who decides what is traced, and collectors that do not answer."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from typing import Any

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from deploy.local.ports import free_port
from inference_server.telemetry import tracing as tracing_module
from inference_server.telemetry.tracing import TraceParent, Tracing, parse_traceparent
from tests.support.collector import attributes_of, collector
from tests.support.serving import wait_until

pytestmark = pytest.mark.process

TRACE_ID, SPAN_ID = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
SAMPLED, NOT_SAMPLED = f"00-{TRACE_ID}-{SPAN_ID}-01", f"00-{TRACE_ID}-{SPAN_ID}-00"
START = 1_790_000_000_000_000_000
STAGES = [("hydrate", START + 1_000, START + 5_000), ("retrieve", START + 5_000, START + 9_000)]


def record(tracing: Tracing, **changes: Any) -> None:
    request: dict[str, Any] = {
        "name": "tandem.v1.RecommendationService/Recommend",
        "started_at_ns": START,
        "ended_at_ns": START + 10_000,
        "stages": STAGES,
        "attributes": {"request_id": "r1", "num_items": 10, "degraded": False, "share": 0.5},
        "traceparent": None,
    }
    tracing.record(**{**request, **changes})


async def close(tracing: Tracing, *, timeout_seconds: float = 30.0) -> None:
    await asyncio.to_thread(tracing.close, timeout_seconds=timeout_seconds)


async def test_a_request_arrives_as_a_span_with_its_stages_as_children() -> None:
    async with collector() as received:
        tracing = Tracing(received.url, sample_ratio=1.0)
        assert tracing.enabled
        record(tracing)
        await close(tracing)
        assert not tracing.enabled
    spans = {span.name: span for span in received.spans}
    assert len(received.spans) == 3
    assert received.service_names == {"tandem-inference-server"}
    root = spans["tandem.v1.RecommendationService/Recommend"]
    assert (root.kind, root.parent_span_id, root.status.code) == (Span.SPAN_KIND_SERVER, b"", Status.STATUS_CODE_UNSET)
    assert (root.start_time_unix_nano, root.end_time_unix_nano) == (START, START + 10_000)
    assert attributes_of(root) == {"request_id": "r1", "num_items": 10, "degraded": False, "share": 0.5}
    for name, started_at_ns, ended_at_ns in STAGES:
        stage = spans[name]
        assert (stage.trace_id, stage.parent_span_id) == (root.trace_id, root.span_id)
        assert (stage.start_time_unix_nano, stage.end_time_unix_nano) == (started_at_ns, ended_at_ns)
        assert stage.kind == Span.SPAN_KIND_INTERNAL
    assert len({span.span_id for span in received.spans}) == 3


async def test_the_callers_traceparent_is_continued_and_decides() -> None:
    async with collector() as received:
        never = Tracing(received.url, sample_ratio=0.0)
        record(never, traceparent=SAMPLED)
        record(never, traceparent=NOT_SAMPLED)
        record(never, traceparent=None)
        record(never, traceparent="00-nonsense")
        await close(never)
        always = Tracing(received.url, sample_ratio=1.0)
        record(always, traceparent=NOT_SAMPLED)
        await close(always)
    (root,) = (span for span in received.spans if span.kind == Span.SPAN_KIND_SERVER)
    assert (root.trace_id.hex(), root.parent_span_id.hex()) == (TRACE_ID, SPAN_ID)
    assert {span.trace_id.hex() for span in received.spans} == {TRACE_ID}


async def test_requests_are_traces_of_their_own_and_every_one_is_sent() -> None:
    async with collector() as received:
        tracing = Tracing(received.url, sample_ratio=1.0)
        for number in range(300):
            record(tracing, attributes={"request_id": str(number)})
        await close(tracing)
    roots = [span for span in received.spans if span.kind == Span.SPAN_KIND_SERVER]
    assert sorted(int(attributes_of(root)["request_id"]) for root in roots) == list(range(300))
    assert len({root.trace_id for root in roots}) == 300
    assert tracing.num_dropped == 0


async def test_the_share_that_is_traced_is_the_ratio() -> None:
    async with collector() as received:
        tracing = Tracing(received.url, sample_ratio=0.25)
        for _ in range(1000):
            record(tracing, stages=[])
        await close(tracing)
    assert 150 < len(received.spans) < 350


async def test_the_end_does_not_wait_for_the_pace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracing_module, "_MAX_PER_SECOND", 0.001)
    async with collector() as received:
        tracing = Tracing(received.url, sample_ratio=1.0)
        record(tracing)
        await wait_until(lambda: len(received.spans) == 3, "the first request has been sent")
        record(tracing)
        await close(tracing)
        assert len(received.spans) == 6


async def test_a_failed_request_is_an_error() -> None:
    async with collector() as received:
        tracing = Tracing(received.url, sample_ratio=1.0)
        record(tracing, stages=[], error="INTERNAL")
        await close(tracing)
    (root,) = received.spans
    assert (root.status.code, root.status.message) == (Status.STATUS_CODE_ERROR, "INTERNAL")


async def test_an_unreachable_collector_costs_traces_and_one_line_of_log(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracing_module, "_EXPORT_SECONDS", 0.2)
    with structlog.testing.capture_logs() as logs:
        tracing = Tracing(f"http://127.0.0.1:{free_port()}", sample_ratio=1.0)
        for number in range(1, 4):
            record(tracing)
            await wait_until(lambda n=number: tracing.num_dropped == n, "the trace is given up")
        await close(tracing)
    assert tracing.num_dropped == 3
    (line,) = logs
    assert (line["event"], line["num_dropped"]) == ("traces_not_sent", 1)
    assert "UNAVAILABLE" in line["reason"]


async def test_a_request_that_cannot_be_traced_is_dropped_and_the_next_is_sent() -> None:
    async with collector() as received:
        tracing = Tracing(received.url, sample_ratio=1.0)
        record(tracing, stages=[("no", "times")])
        await wait_until(lambda: tracing.num_dropped == 1, "the trace is given up")
        record(tracing)
        await close(tracing)
        assert len(received.spans) == 3


async def test_a_collector_that_hangs_holds_up_neither_requests_nor_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracing_module, "_MAX_WAITING", 10)
    async with collector() as received:
        received.released.clear()
        tracing = Tracing(received.url, sample_ratio=1.0)
        record(tracing)
        await wait_until(lambda: received.num_calls == 1, "the collector has the first message and keeps it")
        for _ in range(100):
            record(tracing)
        assert tracing.num_dropped == 90, "the queue is full, and nobody waited for it"
        async with asyncio.timeout(30):
            await close(tracing, timeout_seconds=0.2)


def test_nothing_is_imported_or_started_when_off() -> None:
    program = (
        "import sys, threading; from inference_server.telemetry.tracing import Tracing;"
        "t = Tracing('', sample_ratio=1.0);"
        "t.record(name='n', started_at_ns=0, ended_at_ns=1, stages=[], attributes={}, traceparent=None);"
        "t.close(timeout_seconds=1);"
        "print(t.enabled, t.num_dropped, threading.active_count(), 'opentelemetry' in sys.modules)"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stdout == "False 0 1 False\n"


def test_a_missing_extra_is_a_settings_error() -> None:
    program = (
        "import sys\n"
        "sys.modules['opentelemetry'] = None\n"  # what Python does with a package that is not installed
        "from inference_server.telemetry.tracing import Tracing\n"
        "Tracing('http://127.0.0.1:1', sample_ratio=1.0)\n"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert "SettingsError: TANDEM_OTLP_ENDPOINT: needs the extra" in result.stderr


def test_traceparents() -> None:
    parent = TraceParent(trace_id=int(TRACE_ID, 16), span_id=int(SPAN_ID, 16), sampled=True)
    assert parse_traceparent(SAMPLED) == parent
    assert parse_traceparent(f"01-{TRACE_ID}-{SPAN_ID}-03-what-comes-later") == parent
    for wrong in (
        "",
        SAMPLED.upper(),
        f" {SAMPLED}",
        f"{SAMPLED}-more",
        f"ff-{TRACE_ID}-{SPAN_ID}-01",
        f"00-{'0' * 32}-{SPAN_ID}-01",
        f"00-{TRACE_ID}-{'0' * 16}-01",
    ):
        assert parse_traceparent(wrong) is None, wrong


@given(st.text())
def test_no_header_is_an_exception(text: str) -> None:
    assert parse_traceparent(text) is None
