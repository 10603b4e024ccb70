"""Traces of requests, with their stages as child spans, for an OpenTelemetry collector. The only module that imports
opentelemetry, and only when traces are on.

A trace is written after its request has ended, from times that the request path measures anyway; the requests of a
micro-batch go through a stage together, so there is no moment at which one request's span would be "current". Why not
the OpenTelemetry project's interceptors: docs/decisions/0011.

Whether a request is traced is decided before anything is built. Traced requests wait in a bounded queue for one thread
that makes the spans and sends them; when the collector is slow or down, traces are dropped and counted, without any
effect on requests.
"""

from __future__ import annotations

import importlib.util
import logging
import queue
import random
import re
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import structlog

from inference_server.core.errors import SettingsError

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.sdk.trace import ReadableSpan

_log = structlog.get_logger()

_SERVICE_NAME: Final = "tandem-inference-server"
_EXPORTER: Final = "opentelemetry.exporter.otlp.proto.grpc"

_MAX_WAITING: Final = 2048
"""Traced requests that wait to be sent; about 2 KB each."""
_MAX_BATCH: Final = 64
"""Requests in one message. Small, because making their spans holds the interpreter's lock."""
_MAX_PER_SECOND: Final = 200.0
"""Maximum number of traced requests a second, even if callers' headers ask for more: the spans of a request take about
0.2 ms of processor time. Further requests wait in the queue, and are dropped when it is full."""
_BATCH_SECONDS: Final = 0.5
"""How long a traced request waits for further requests of the same message."""
_EXPORT_SECONDS: Final = 5.0
"""Time limit for sending one message."""
_LOG_EVERY_SECONDS: Final = 60.0

_TRACEPARENT: Final = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")


@dataclass(frozen=True, kw_only=True, slots=True)
class TraceParent:
    """The caller's span, from the W3C traceparent."""

    trace_id: int
    span_id: int
    sampled: bool


def parse_traceparent(text: str) -> TraceParent | None:
    """Reads the header; None if it is malformed, which the W3C standard treats as absent."""
    match = _TRACEPARENT.fullmatch(text)
    if match is None:
        return None
    version, trace_id, span_id, flags, rest = match.groups()
    if version == "ff" or (version == "00" and rest) or not int(trace_id, 16) or not int(span_id, 16):
        return None
    return TraceParent(trace_id=int(trace_id, 16), span_id=int(span_id, 16), sampled=bool(int(flags, 16) & 1))


@dataclass(frozen=True, kw_only=True, slots=True)
class _Traced:
    """One request that has ended and is to be traced. Times in nanoseconds since 1970."""

    name: str
    started_at_ns: int
    ended_at_ns: int
    stages: Sequence[tuple[str, int, int]]
    attributes: Mapping[str, str | int | float | bool]
    parent: TraceParent | None
    error: str | None


class Tracing:
    """Traces of requests. When they are off, a request only reads `enabled`."""

    def __init__(self, endpoint: str, *, sample_ratio: float) -> None:
        """`endpoint` is the collector's URL; empty: off. Raises SettingsError if the extra is not installed."""
        self.enabled = bool(endpoint)
        self._sample_ratio = sample_ratio
        self._queue: queue.Queue[_Traced | None] = queue.Queue(_MAX_WAITING)
        self._num_not_queued = 0
        self._sender: _Sender | None = None
        if self.enabled:
            require_extra()
            self._sender = _Sender(endpoint, self._queue, lambda: self._num_not_queued)

    @property
    def num_dropped(self) -> int:
        """Requests whose trace was dropped."""
        return self._num_not_queued + (0 if self._sender is None else self._sender.num_not_sent)

    def record(
        self,
        *,
        name: str,
        started_at_ns: int,
        ended_at_ns: int,
        stages: Sequence[tuple[str, int, int]],
        attributes: Mapping[str, str | int | float | bool],
        traceparent: str | None,
        error: str | None = None,
    ) -> None:
        """Traces one request that has ended, if it is sampled: a span `name` with one child span for each of `stages`.

        Times are nanoseconds since 1970 (`time.time_ns`); a stage is its name, start and end. `traceparent` is the
        caller's header (None: no header); its flag decides whether the request is traced. `error` is the reason for a
        failed request, otherwise None. Never blocks and raises nothing. Does nothing when traces are off.
        """
        if self._sender is None:
            return
        parent = parse_traceparent(traceparent) if traceparent else None
        sampled = random.random() < self._sample_ratio if parent is None else parent.sampled
        if not sampled:
            return
        traced = _Traced(
            name=name,
            started_at_ns=started_at_ns,
            ended_at_ns=ended_at_ns,
            stages=stages,
            attributes=attributes,
            parent=parent,
            error=error,
        )
        try:
            self._queue.put_nowait(traced)
        except queue.Full:
            self._num_not_queued += 1

    def close(self, *, timeout_seconds: float) -> None:
        """Sends the queued traces, for at most about `timeout_seconds`. Blocks. Nothing is recorded afterwards."""
        self.enabled = False
        sender, self._sender = self._sender, None
        if sender is not None:
            sender.close(timeout_seconds=timeout_seconds)
            self._num_not_queued += sender.num_not_sent


def require_extra() -> None:
    """Raises SettingsError unless the packages of `[tracing]` are installed. Imports none of them."""
    try:
        found = importlib.util.find_spec(_EXPORTER)
    except ModuleNotFoundError:
        found = None
    if found is None:
        raise SettingsError("TANDEM_OTLP_ENDPOINT: needs the extra: pip install 'tandem-recommender[tracing]'")


class _Sender:
    """The thread that makes spans from the queued requests, and sends them."""

    def __init__(self, endpoint: str, waiting: queue.Queue[_Traced | None], num_not_queued: Callable[[], int]) -> None:
        from opentelemetry import trace
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
        from opentelemetry.sdk.trace.export import SpanExportResult
        from opentelemetry.sdk.trace.sampling import ALWAYS_ON

        spans: list[ReadableSpan] = []

        class Collect(SpanProcessor):
            def on_end(self, span: ReadableSpan) -> None:
                spans.append(span)

        # Recorded requests are sampled already. The SDK's own batching processor would add a second queue and thread.
        provider = TracerProvider(
            sampler=ALWAYS_ON, resource=Resource.create({"service.name": _SERVICE_NAME}), shutdown_on_exit=False
        )
        provider.add_span_processor(Collect())
        self._spans = spans
        self._trace = trace
        self._no_parent: Context = trace.set_span_in_context(trace.INVALID_SPAN)
        self._tracer = provider.get_tracer("inference_server")
        self._exporter = OTLPSpanExporter(
            endpoint=endpoint, insecure=endpoint.startswith("http://"), timeout=_EXPORT_SECONDS
        )
        self._success = SpanExportResult.SUCCESS
        self._reasons = _LastMessage()
        self._exporter_log = logging.getLogger(f"{_EXPORTER}.exporter")
        self._exporter_log.addFilter(self._reasons)
        self._queue = waiting
        self._num_not_queued = num_not_queued
        self._log_again_at = 0.0
        self._closing = threading.Event()
        self._given_up = False
        self.num_not_sent = 0
        # A daemon, so that a hanging collector cannot delay the end of the process.
        self._thread = threading.Thread(target=self._run, name="traces", daemon=True)
        self._thread.start()

    def close(self, *, timeout_seconds: float) -> None:
        give_up_at = time.monotonic() + timeout_seconds
        self._closing.set()
        with suppress(queue.Full):
            self._queue.put(None, timeout=timeout_seconds)
        self._thread.join(max(0.0, give_up_at - time.monotonic()))
        self._given_up = True
        self._exporter.shutdown()

    def _run(self) -> None:
        ended = False
        while not ended and not self._given_up:
            batch, ended = self._next_batch()
            if batch:
                self._send(batch)
                self._closing.wait(len(batch) / _MAX_PER_SECOND)
        self._exporter_log.removeFilter(self._reasons)

    def _next_batch(self) -> tuple[list[_Traced], bool]:
        """Waits for a request to trace, and briefly for further ones. Also returns whether the queue was closed."""
        batch: list[_Traced] = []
        traced = self._queue.get()
        send_at = time.monotonic() + _BATCH_SECONDS
        while traced is not None:
            batch.append(traced)
            if len(batch) == _MAX_BATCH:
                return batch, False
            try:
                traced = self._queue.get(timeout=max(0.0, send_at - time.monotonic()))
            except queue.Empty:
                return batch, False
        return batch, True

    def _make_spans(self, traced: _Traced) -> None:
        trace = self._trace
        root = self._tracer.start_span(
            traced.name,
            context=self._context_of(traced.parent),
            kind=trace.SpanKind.SERVER,
            attributes=traced.attributes,
            start_time=traced.started_at_ns,
        )
        if traced.error is not None:
            root.set_status(trace.StatusCode.ERROR, traced.error)
        inside = trace.set_span_in_context(root)
        for stage, started_at_ns, ended_at_ns in traced.stages:
            self._tracer.start_span(stage, context=inside, start_time=started_at_ns).end(ended_at_ns)
        root.end(traced.ended_at_ns)

    def _context_of(self, parent: TraceParent | None) -> Context:
        trace = self._trace
        if parent is None:
            return self._no_parent
        span_context = trace.SpanContext(
            parent.trace_id, parent.span_id, is_remote=True, trace_flags=trace.TraceFlags(trace.TraceFlags.SAMPLED)
        )
        context: Context = trace.set_span_in_context(trace.NonRecordingSpan(span_context))
        return context

    def _send(self, batch: list[_Traced]) -> None:
        try:
            for traced in batch:
                self._make_spans(traced)
            sent = self._exporter.export(self._spans) is self._success
        except Exception as error:  # whichever exception a library raises, the thread must go on
            sent, self._reasons.last = False, repr(error)
        self._spans.clear()
        if sent:
            return
        self.num_not_sent += len(batch)
        if time.monotonic() >= self._log_again_at:
            self._log_again_at = time.monotonic() + _LOG_EVERY_SECONDS
            num_dropped = self.num_not_sent + self._num_not_queued()
            _log.warning("traces_not_sent", reason=self._reasons.last, num_dropped=num_dropped)


class _LastMessage(logging.Filter):
    """Captures the exporter's log lines, of which there are many for each message that it cannot send."""

    last = ""

    def filter(self, record: logging.LogRecord) -> bool:
        self.last = record.getMessage()
        return False
