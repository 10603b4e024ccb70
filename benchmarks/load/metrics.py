"""The server's own counts at /metrics, as differences between two scrapes.

h2load does not read gRPC statuses, so refused, failed and degraded requests are counted here.
"""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final, TypeVar

import numpy as np

OK: Final = "OK"
CANCELLED: Final = "CANCELLED"
"""Requests in flight when a load generator ended and closed its connection."""
REFUSED: Final = "RESOURCE_EXHAUSTED"

_HTTP_CODES: Final = {"200": OK, "429": REFUSED}
_Name = TypeVar("_Name", str, float)
_SAMPLE: Final = re.compile(r"^(\w+)(?:\{(.*)\})? (\S+)", re.MULTILINE)
_LABEL: Final = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')


@dataclass(frozen=True)
class BucketCounts:
    """Number of observations in each bucket of a Prometheus histogram."""

    counts: Mapping[float, float]
    """Upper bound -> count, not cumulated; the last bound is infinity."""

    @property
    def total(self) -> float:
        """Number of observations."""
        return sum(self.counts.values())

    def since(self, before: BucketCounts) -> BucketCounts:
        """Observations after an earlier reading of the same histogram."""
        return BucketCounts(_difference(self.counts, before.counts))

    def share_within(self, bound: float) -> float:
        """Share of observations up to `bound`; 1 without observations. Raises ValueError if no bucket ends there."""
        if bound not in self.counts:
            raise ValueError(f"no bucket ends at {bound}, only at {sorted(self.counts)}")
        within = sum(count for upper, count in self.counts.items() if upper <= bound)
        return within / self.total if self.total else 1.0

    def quantile(self, share: float, *, leaving_out_fastest: float = 0.0) -> float:
        """The value below which `share` of the observations lie, interpolated linearly in its bucket.

        The fastest `leaving_out_fastest` observations are not counted: refusals take microseconds and would improve the
        latency of the accepted requests. NaN without observations; at most the last finite bound.
        """
        counted = self.total - leaving_out_fastest
        if counted <= 0:
            return float("nan")
        wanted = leaving_out_fastest + share * counted
        below, lower = 0.0, 0.0
        for upper in sorted(self.counts):
            count = self.counts[upper]
            if below + count >= wanted and count:
                return lower if np.isinf(upper) else lower + (upper - lower) * (wanted - below) / count
            below, lower = below + count, upper
        return lower


@dataclass(frozen=True, kw_only=True)
class Scrape:
    """Counts that the benchmark reads from /metrics."""

    requests_by_code: Mapping[str, float]
    answers_by_source: Mapping[str, float]
    degraded_by_reason: Mapping[str, float]
    request_seconds: BucketCounts
    http_requests_by_status: Mapping[str, float] = field(default_factory=dict)
    http_request_seconds: BucketCounts = field(default_factory=lambda: BucketCounts({}))

    @classmethod
    def parse(cls, text: str) -> Scrape:
        """Reads the text format. Counts that differ only in other labels, for example the worker, are summed."""
        return cls(
            requests_by_code=_counts(text, "tandem_requests_total", "code"),
            answers_by_source=_counts(text, "tandem_answers_total", "source"),
            degraded_by_reason=_counts(text, "tandem_degraded_total", "reason"),
            request_seconds=_buckets(text, "tandem_request_seconds_bucket"),
            http_requests_by_status=_counts(text, "tandem_http_requests_total", "status"),
            http_request_seconds=_buckets(text, "tandem_http_request_seconds_bucket"),
        )

    def since(self, before: Scrape) -> Scrape:
        """Counts since an earlier scrape, at least 0: a worker that restarts loses its counts."""
        return Scrape(
            requests_by_code=_difference(self.requests_by_code, before.requests_by_code),
            answers_by_source=_difference(self.answers_by_source, before.answers_by_source),
            degraded_by_reason=_difference(self.degraded_by_reason, before.degraded_by_reason),
            request_seconds=self.request_seconds.since(before.request_seconds),
            http_requests_by_status=_difference(self.http_requests_by_status, before.http_requests_by_status),
            http_request_seconds=self.http_request_seconds.since(before.http_request_seconds),
        )

    def over_http(self) -> Scrape:
        """The scrape with only HTTP requests as its requests. Answers and degradations still include both protocols."""
        codes = {_HTTP_CODES.get(status, f"HTTP_{status}"): n for status, n in self.http_requests_by_status.items()}
        return replace(self, requests_by_code=codes, request_seconds=self.http_request_seconds)

    @property
    def answered(self) -> float:
        """Requests that were answered."""
        return self.requests_by_code.get(OK, 0.0)

    @property
    def refused(self) -> float:
        """Requests that admission refused."""
        return self.requests_by_code.get(REFUSED, 0.0)

    @property
    def degraded(self) -> float:
        """Degraded answers, at most `answered`; an answer with two reasons counts twice."""
        return min(self.answered, sum(self.degraded_by_reason.values()))

    @property
    def errors(self) -> float:
        """Requests that were neither answered, nor refused, nor cancelled by the caller."""
        return sum(n for code, n in self.requests_by_code.items() if code not in {OK, CANCELLED, REFUSED})

    def summary(self) -> dict[str, Any]:
        """The figures that the report shows."""
        return {
            "answered": round(self.answered),
            "refused": round(self.refused),
            "cancelled": round(self.requests_by_code.get(CANCELLED, 0.0)),
            "errors": round(self.errors),
            "degraded": round(self.degraded),
            "degraded_by_reason": {k: round(n) for k, n in self.degraded_by_reason.items() if n},
            "answers_by_source": {k: round(n) for k, n in self.answers_by_source.items() if n},
            "server_p99_ms_of_accepted": round(
                1e3 * self.request_seconds.quantile(0.99, leaving_out_fastest=self.refused), 2
            )
            if self.answered
            else None,
        }


async def scrape(port: int) -> Scrape:
    """Reads /metrics of a server on loopback."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET /metrics HTTP/1.0\r\n\r\n")
    text = (await reader.read()).decode()
    writer.close()
    await writer.wait_closed()
    return Scrape.parse(text)


def _samples(text: str, name: str) -> list[tuple[dict[str, str], float]]:
    return [
        (dict(_LABEL.findall(labels)), float(value)) for found, labels, value in _SAMPLE.findall(text) if found == name
    ]


def _counts(text: str, name: str, label: str) -> dict[str, float]:
    counts: Counter[str] = Counter()
    for labels, value in _samples(text, name):
        counts[labels[label]] += value  # type: ignore[assignment]  # typeshed only knows Counters of integers
    return dict(counts)


def _buckets(text: str, name: str) -> BucketCounts:
    cumulated: dict[float, float] = {}
    for labels, value in _samples(text, name):
        bound = float(labels["le"])
        cumulated[bound] = cumulated.get(bound, 0.0) + value
    bounds = sorted(cumulated)
    below = [0.0, *(cumulated[bound] for bound in bounds)]
    return BucketCounts({bound: cumulated[bound] - less for bound, less in zip(bounds, below, strict=False)})


def _difference(after: Mapping[_Name, float], before: Mapping[_Name, float]) -> dict[_Name, float]:
    return {name: max(0.0, count - before.get(name, 0.0)) for name, count in after.items()}
