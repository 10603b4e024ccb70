"""Every metric that a worker counts, declared once and in the order of the /metrics page.

A new metric is one attribute here and the line that counts it. Its initial value, the merge of the workers' values, the
page and docs/reference/metrics.md follow from the declaration.
"""

from __future__ import annotations

from collections import Counter
from typing import Annotated, Final

from inference_server.core.breaker import BreakerState
from inference_server.core.degradation import Degraded, Source
from inference_server.core.request_warnings import WarningKind
from inference_server.telemetry.histogram import Histogram
from inference_server.telemetry.worker_metric import Merge, WorkerMetric, worker_metrics
from tandem.ops.metrics import Kind

STAGES: Final = ("admit", "hydrate", "encode_user", "filter", "retrieve", "rank", "fallback", "select", "answer")

_SECONDS: Final = (0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0)
"""Whole requests take 0.5 ms to 1 s, single stages less."""
_BATCH_REQUESTS: Final = (1, 2, 4, 8, 16, 32, 64, 128, 256)
_LIVE_LAG_SECONDS: Final = (0.25, 0.5, 1.0, 2.0, 3.0, 5.0, 10.0, 30.0, 60.0, 300.0)

SHADOW_LABELS: Final = ("model", "model_version", "own_version")
"""First labels of what is counted of a shadow: its alias or number, the version that it answered with, and the version
that it was compared with. A worker shows the newest pair of versions alone."""
_SHARES: Final = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 1.0)
_SCORES: Final = tuple(
    sign * bound
    for sign, bounds in (
        (-1, (100.0, 30.0, 10.0, 5.0, 3.0, 2.0, 1.5, 1.0, 0.8, 0.6, 0.5, 0.4, 0.3, 0.2, 0.15, 0.1, 0.05, 0.02, 0.0)),
        (1, (0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0, 30.0, 100.0)),
    )
    for bound in bounds
)
"""Inner products of unit vectors and blends lie within -1 to 1, the outputs of a ranker anywhere."""
_RATIOS: Final = (0.1, 0.2, 0.33, 0.5, 0.67, 0.8, 0.87, 0.95, 1.05, 1.15, 1.3, 1.5, 2.0, 3.0, 5.0, 10.0, 30.0, 100.0)
_POSITIONS: Final = (0, 1, 2, 3, 5, 10, 20, 50, 100)
_INTERACTIONS: Final = (1, 3, 10, 30, 100, 300, 1000, 3000, 10_000, 30_000, 100_000)
_CATEGORIES: Final = (0, 1, 2, 3, 4, 5, 7, 10, 15, 20, 30, 50)

_BREAKER_SEVERITY: Final = {BreakerState.CLOSED: 0, BreakerState.OPEN: 2, BreakerState.HALF_OPEN: 1}
"""In the order of the page. A breaker that lets its probe through is on its way back."""


def new_seconds() -> Histogram:
    """An empty histogram of times of requests, for a label value that turns up while the worker runs."""
    return Histogram(_SECONDS)


class WorkerMetrics:
    """The numbers of one worker, or of all workers once they are merged."""

    requests_by_code: Annotated[
        Counter[str],
        WorkerMetric(
            "tandem_requests",
            "Recommend calls by gRPC status.",
            Kind.COUNTER,
            labels=("code",),
            unit="calls",
            merge=Merge.SUM,
            investigate_when="`RESOURCE_EXHAUSTED` grows: more calls at once than `TANDEM_MAX_CONCURRENT_REQUESTS`. "
            "`INTERNAL` is above 0: a defect, with a traceback in the log.",
        ),
    ]
    request_seconds: Annotated[
        Histogram,
        WorkerMetric(
            "tandem_request_seconds",
            "Time of whole Recommend calls.",
            Kind.HISTOGRAM,
            unit="seconds",
            buckets=_SECONDS,
            merge=Merge.SUM,
            investigate_when="The 99th percentile nears the callers' deadline; `tandem_stage_seconds` says where the "
            "time goes.",
        ),
    ]
    stage_seconds: Annotated[
        dict[str, Histogram],
        WorkerMetric(
            "tandem_stage_seconds",
            "Time of a request's stages.",
            Kind.HISTOGRAM,
            labels=("stage",),
            values=STAGES,
            unit="seconds",
            buckets=_SECONDS,
            merge=Merge.SUM,
            investigate_when="One stage takes a growing share; `hydrate` waits for the store.",
        ),
    ]
    answers_by_source: Annotated[
        Counter[Source],
        WorkerMetric(
            "tandem_answers",
            "Answers by how they were made.",
            Kind.COUNTER,
            labels=("source",),
            values=tuple(Source),
            unit="answers",
            merge=Merge.SUM,
            investigate_when="The share of `POPULAR` or `CACHED` grows: answers are less personal than they could be.",
        ),
    ]
    degraded_by_reason: Annotated[
        Counter[Degraded],
        WorkerMetric(
            "tandem_degraded",
            "Degraded answers by reason.",
            Kind.COUNTER,
            labels=("reason",),
            values=tuple(Degraded),
            unit="answers",
            merge=Merge.SUM,
            investigate_when="Any reason grows. An answer with two reasons counts for both.",
        ),
    ]
    answers_by_model: Annotated[
        Counter[str],
        WorkerMetric(
            "tandem_model_answers",
            "Answers by the alias or version number of the model that made them, while further models serve.",
            Kind.COUNTER,
            labels=("model",),
            unit="answers",
            merge=Merge.SUM,
            investigate_when="The share of a model is not that of its arms in the experiments.",
        ),
    ]
    seconds_by_model: Annotated[
        dict[str, Histogram],
        WorkerMetric(
            "tandem_model_seconds",
            "Time from admission to answer by model, while further models serve.",
            Kind.HISTOGRAM,
            labels=("model",),
            unit="seconds",
            buckets=_SECONDS,
            merge=Merge.SUM,
            investigate_when="A further model is slower than the server's own.",
        ),
    ]
    degraded_by_model: Annotated[
        Counter[tuple[str, str]],
        WorkerMetric(
            "tandem_model_degraded",
            "Degraded answers by model and reason, while further models serve; `arm_unavailable` by the model that is "
            "missing.",
            Kind.COUNTER,
            labels=("model", "reason"),
            unit="answers",
            merge=Merge.SUM,
            investigate_when="`arm_unavailable` grows: the model is not in force; GetServingStatus says why.",
        ),
    ]
    shadow_requests: Annotated[
        Counter[tuple[str, ...]],
        WorkerMetric(
            "tandem_shadow_requests",
            "Requests chosen for a shadow model, by what became of them (docs/experiments.md).",
            Kind.COUNTER,
            labels=(*SHADOW_LABELS, "outcome"),
            unit="requests",
            merge=Merge.SUM,
            investigate_when="`failed`, `timed_out`, `empty` or `not_finite` is above 0: do not promote the version. "
            "`queue_full` or `expired` is a large share: the worker has no quiet moments; lower "
            "`TANDEM_SHADOW_SHARE`.",
        ),
    ]
    shadow_degraded: Annotated[
        Counter[tuple[str, ...]],
        WorkerMetric(
            "tandem_shadow_degraded",
            "Degraded answers of a shadow model by reason. No caller received them.",
            Kind.COUNTER,
            labels=(*SHADOW_LABELS, "reason"),
            unit="answers",
            merge=Merge.SUM,
            investigate_when="`deadline` or `ranker_skipped` grows: the version is too slow for `TANDEM_DEADLINE_MS`. "
            "`ranker_failed`, `user_vector_not_finite`: it is broken.",
        ),
    ]
    shadow_overlap: Annotated[
        dict[tuple[str, ...], Histogram],
        WorkerMetric(
            "tandem_shadow_overlap",
            "Share of the items of one answer that shadow and own model have in common.",
            Kind.HISTOGRAM,
            labels=SHADOW_LABELS,
            unit="share, 0 to 1",
            buckets=_SHARES,
            merge=Merge.SUM,
            investigate_when="It is far below that of earlier versions.",
        ),
    ]
    shadow_rank_biased_overlap: Annotated[
        dict[tuple[str, ...], Histogram],
        WorkerMetric(
            "tandem_shadow_rank_biased_overlap",
            "Rank-biased overlap (p = 0.9) of the answers of shadow and own model.",
            Kind.HISTOGRAM,
            labels=SHADOW_LABELS,
            unit="share, 0 to 1",
            buckets=_SHARES,
            merge=Merge.SUM,
        ),
    ]
    shadow_lists: Annotated[
        Counter[tuple[str, ...]],
        WorkerMetric(
            "tandem_shadow_lists",
            "Compared answers whose first item is the same, whose lists are equal, or where the shadow's is shorter.",
            Kind.COUNTER,
            labels=(*SHADOW_LABELS, "what"),
            unit="answers",
            merge=Merge.SUM,
            investigate_when="`shorter` grows: the version finds fewer items that pass the filters.",
        ),
    ]
    shadow_rank_shift: Annotated[
        dict[tuple[str, ...], Histogram],
        WorkerMetric(
            "tandem_shadow_rank_shift",
            "Positions between the places of a common item in the two answers.",
            Kind.HISTOGRAM,
            labels=SHADOW_LABELS,
            unit="positions",
            buckets=_POSITIONS,
            merge=Merge.SUM,
        ),
    ]
    shadow_scores: Annotated[
        dict[tuple[str, ...], Histogram],
        WorkerMetric(
            "tandem_shadow_scores",
            "Scores of the items of compared answers, by who gave them. Scores of two models need not be on one scale.",
            Kind.HISTOGRAM,
            labels=(*SHADOW_LABELS, "side"),
            unit="score",
            buckets=_SCORES,
            merge=Merge.SUM,
        ),
    ]
    shadow_score_difference: Annotated[
        dict[tuple[str, ...], Histogram],
        WorkerMetric(
            "tandem_shadow_score_difference",
            "Score of a common item by the shadow, less that by the own model.",
            Kind.HISTOGRAM,
            labels=SHADOW_LABELS,
            unit="score",
            buckets=_SCORES,
            merge=Merge.SUM,
        ),
    ]
    shadow_popularity: Annotated[
        dict[tuple[str, ...], Histogram],
        WorkerMetric(
            "tandem_shadow_popularity",
            "Mean interactions of the items of one answer in the own model's training data, by who answered.",
            Kind.HISTOGRAM,
            labels=(*SHADOW_LABELS, "side"),
            unit="interactions",
            buckets=_INTERACTIONS,
            merge=Merge.SUM,
            investigate_when="`shadow` is far above `own`: the version shows everybody the same popular items.",
        ),
    ]
    shadow_categories: Annotated[
        dict[tuple[str, ...], Histogram],
        WorkerMetric(
            "tandem_shadow_categories",
            "Distinct categories of the items of one answer, by who answered.",
            Kind.HISTOGRAM,
            labels=(*SHADOW_LABELS, "side"),
            unit="categories",
            buckets=_CATEGORIES,
            merge=Merge.SUM,
        ),
    ]
    shadow_seconds: Annotated[
        dict[tuple[str, ...], Histogram],
        WorkerMetric(
            "tandem_shadow_seconds",
            "Time of one batch in the stages, of shadow and own model one after the other on the same requests.",
            Kind.HISTOGRAM,
            labels=(*SHADOW_LABELS, "side"),
            unit="seconds",
            buckets=_SECONDS,
            merge=Merge.SUM,
        ),
    ]
    shadow_slowdown: Annotated[
        dict[tuple[str, ...], Histogram],
        WorkerMetric(
            "tandem_shadow_slowdown",
            "Time of the shadow for one batch, as a multiple of the own model's for the same batch.",
            Kind.HISTOGRAM,
            labels=SHADOW_LABELS,
            unit="ratio",
            buckets=_RATIOS,
            merge=Merge.SUM,
            investigate_when="The median is above 1.2: requests take longer after a promotion.",
        ),
    ]
    ranker_not_finite: Annotated[
        Counter[str],
        WorkerMetric(
            "tandem_ranker_not_finite",
            "Batches whose scores by the ranker were NaN or infinite, by the model's alias or version number.",
            Kind.COUNTER,
            labels=("model",),
            unit="batches",
            merge=Merge.SUM,
            investigate_when="It is above 0: those answers are in the order of the two-tower score (`ranker_failed`); "
            "roll the model back. A canary is taken back at the first.",
        ),
    ]
    warnings_by_kind: Annotated[
        Counter[WarningKind],
        WorkerMetric(
            "tandem_request_warnings",
            "Warnings in answers, by kind.",
            Kind.COUNTER,
            labels=("kind",),
            values=tuple(WarningKind),
            unit="warnings",
            merge=Merge.SUM,
            investigate_when="It grows: a caller filters by names that the catalogue does not have, or by all of its "
            "items away; the answers say which.",
        ),
    ]
    undecodable_by_method: Annotated[
        Counter[str],
        WorkerMetric(
            "tandem_undecodable_messages",
            "gRPC messages that could not be decoded, and calls without one, by method. They are counted by no other "
            "metric.",
            Kind.COUNTER,
            labels=("method",),
            unit="messages",
            merge=Merge.SUM,
            investigate_when="It grows: a client was built from another `.proto`, or somebody tries what the server "
            "does.",
        ),
    ]
    http_requests_by_status: Annotated[
        Counter[str],
        WorkerMetric(
            "tandem_http_requests",
            "HTTP requests by status.",
            Kind.COUNTER,
            labels=("status",),
            unit="requests",
            merge=Merge.SUM,
            investigate_when="`500` is above 0: a defect, with a traceback in the log. `429` grows: too many requests "
            "at once. `499` means that the caller left.",
        ),
    ]
    http_request_seconds: Annotated[
        Histogram,
        WorkerMetric(
            "tandem_http_request_seconds",
            "Time of HTTP requests.",
            Kind.HISTOGRAM,
            unit="seconds",
            buckets=_SECONDS,
            merge=Merge.SUM,
            investigate_when="The 99th percentile nears the callers' deadline.",
        ),
    ]
    http_refused_by_limit: Annotated[
        Counter[str],
        WorkerMetric(
            "tandem_http_refused",
            "HTTP connections closed because of a limit, or because they did not speak HTTP.",
            Kind.COUNTER,
            labels=("limit",),
            unit="connections",
            merge=Merge.SUM,
            investigate_when="It grows: `http_refused` in the log has an address for each limit, once a minute. "
            "`connections`, `held_bytes`: more callers at once than a worker takes, or an attack.",
        ),
    ]
    batch_requests: Annotated[
        Histogram,
        WorkerMetric(
            "tandem_batch_requests",
            "Requests in one micro-batch.",
            Kind.HISTOGRAM,
            unit="requests",
            buckets=_BATCH_REQUESTS,
            merge=Merge.SUM,
            investigate_when="It stays at 1 under load: batching has no effect.",
        ),
    ]
    queue_seconds: Annotated[
        Histogram,
        WorkerMetric(
            "tandem_queue_seconds",
            "Wait for a micro-batch.",
            Kind.HISTOGRAM,
            unit="seconds",
            buckets=_SECONDS,
            merge=Merge.SUM,
            investigate_when="It is a large share of `tandem_request_seconds`: the workers are busy.",
        ),
    ]
    queue_requests: Annotated[
        int,
        WorkerMetric(
            "tandem_queue_requests",
            "Requests that wait for a batch.",
            Kind.GAUGE,
            unit="requests",
            merge=Merge.SUM,
            investigate_when="It does not return to about 0 between peaks: more requests arrive than are answered.",
        ),
    ]
    dropped_requests: Annotated[
        int,
        WorkerMetric(
            "tandem_dropped_requests",
            "Requests dropped because the caller had gone.",
            Kind.COUNTER,
            unit="requests",
            merge=Merge.SUM,
            investigate_when="It grows steadily: callers' deadlines are shorter than the wait for a batch.",
        ),
    ]
    many_calls_by_code: Annotated[
        Counter[str],
        WorkerMetric(
            "tandem_many",
            "RecommendMany calls over gRPC by status.",
            Kind.COUNTER,
            labels=("code",),
            unit="calls",
            merge=Merge.SUM,
            investigate_when="`RESOURCE_EXHAUSTED` grows: calls with many queries hold their share of "
            "`TANDEM_MAX_CONCURRENT_REQUESTS`; those that can wait belong into the bulk priority.",
        ),
    ]
    many_call_seconds: Annotated[
        Histogram,
        WorkerMetric(
            "tandem_many_seconds",
            "Time of whole RecommendMany calls over gRPC.",
            Kind.HISTOGRAM,
            unit="seconds",
            buckets=_SECONDS,
            merge=Merge.SUM,
            investigate_when="The 99th percentile nears the deadline that callers set.",
        ),
    ]
    many_queries_by_code: Annotated[
        Counter[str],
        WorkerMetric(
            "tandem_many_queries",
            "Queries of RecommendMany calls by the gRPC status of their outcome, over gRPC and HTTP.",
            Kind.COUNTER,
            labels=("code",),
            unit="queries",
            merge=Merge.SUM,
            investigate_when="`DEADLINE_EXCEEDED` grows: calls hold more queries than their deadline leaves time for. "
            "`INTERNAL` grows: the log has the bug.",
        ),
    ]
    write_calls_by_code: Annotated[
        Counter[str],
        WorkerMetric(
            "tandem_writes",
            "RecordEvents, UpsertItems and DeleteItems calls by gRPC status.",
            Kind.COUNTER,
            labels=("code",),
            unit="calls",
            merge=Merge.SUM,
            investigate_when="`RESOURCE_EXHAUSTED` or `UNAVAILABLE` grows; `tandem_writes_refused_total` has the "
            "reasons.",
        ),
    ]
    write_call_seconds: Annotated[
        Histogram,
        WorkerMetric(
            "tandem_write_seconds",
            "Time of whole calls that write.",
            Kind.HISTOGRAM,
            unit="seconds",
            buckets=_SECONDS,
            merge=Merge.SUM,
            investigate_when="The 99th percentile nears `TANDEM_EVENTS_DEADLINE_MS`.",
        ),
    ]
    events_appended: Annotated[
        Counter[str],
        WorkerMetric(
            "tandem_events_appended",
            "Entries that are durable in a stream, by type.",
            Kind.COUNTER,
            labels=("type",),
            unit="entries",
            merge=Merge.SUM,
            investigate_when="It stands still although the site has visitors. Types are those of the events, "
            "`item_upsert` and `item_delete`.",
        ),
    ]
    writes_refused: Annotated[
        Counter[str],
        WorkerMetric(
            "tandem_writes_refused",
            "Calls whose entries were not appended, by reason.",
            Kind.COUNTER,
            labels=("reason",),
            unit="calls",
            merge=Merge.SUM,
            investigate_when="`backlog`: feature_sync does not keep up. `no_room`: the store is out of memory. "
            "`waiting`, `too_slow`: the stream appends too slowly. `unavailable`: it does not answer.",
        ),
    ]
    append_seconds: Annotated[
        Histogram,
        WorkerMetric(
            "tandem_append_seconds",
            "Time until a call's entries were durable.",
            Kind.HISTOGRAM,
            unit="seconds",
            buckets=_SECONDS,
            merge=Merge.SUM,
            investigate_when="It grows: the disk of the store, or the brokers, are slow.",
        ),
    ]
    stream_backlog: Annotated[
        dict[str, int],
        WorkerMetric(
            "tandem_stream_backlog",
            "Entries in a stream.",
            Kind.GAUGE,
            labels=("stream",),
            unit="entries",
            merge=Merge.MAX,
            investigate_when="It grows: feature_sync has not taken the entries off. From `TANDEM_EVENTS_MAX_BACKLOG` "
            "on, calls are refused. Redis only.",
        ),
    ]
    breakers: Annotated[
        dict[str, str],
        WorkerMetric(
            "tandem_breaker_state",
            "1 for the state of each circuit breaker.",
            Kind.GAUGE,
            labels=("breaker", "state"),
            severity=_BREAKER_SEVERITY,
            unit="0 or 1",
            merge=Merge.WORST,
            investigate_when="`open` is 1: the dependency failed and is left alone for a while, then one call is let "
            "through.",
        ),
    ]
    live_items: Annotated[
        int,
        WorkerMetric(
            "tandem_live_items",
            "Items recommended that changed since the bundle was made.",
            Kind.GAUGE,
            unit="items",
            merge=Merge.MAX,
        ),
    ]
    live_dead_rows: Annotated[
        int,
        WorkerMetric(
            "tandem_live_dead_rows",
            "Items known to the model that are not recommended: deleted, or unavailable.",
            Kind.GAUGE,
            unit="items",
            merge=Merge.MAX,
        ),
    ]
    live_waiting: Annotated[
        int,
        WorkerMetric(
            "tandem_live_waiting",
            "Changed items whose vector is not there yet.",
            Kind.GAUGE,
            unit="items",
            merge=Merge.MAX,
            investigate_when="It does not return to 0: is `feature_sync run` alive?",
        ),
    ]
    live_put_off: Annotated[
        int,
        WorkerMetric(
            "tandem_live_put_off",
            "Changes beyond the limit, which wait for the next bundle.",
            Kind.GAUGE,
            unit="changes",
            merge=Merge.MAX,
            investigate_when="It is above 0: train more often, or raise `TANDEM_MAX_LIVE_ITEMS`.",
        ),
    ]
    live_sequence: Annotated[
        int,
        WorkerMetric(
            "tandem_live_sequence",
            "The last change of the catalogue that is in force.",
            Kind.GAUGE,
            unit="sequence number",
            merge=Merge.MAX,
            investigate_when="It lags behind the newest sequence of the feed.",
        ),
    ]
    live_age_seconds: Annotated[
        float,
        WorkerMetric(
            "tandem_live_age_seconds",
            "Time since the store last confirmed that nothing else had changed.",
            Kind.GAUGE,
            unit="seconds",
            merge=Merge.MAX,
            investigate_when="It is above 10 s: is the store alive?",
        ),
    ]
    live_lag_seconds: Annotated[
        Histogram,
        WorkerMetric(
            "tandem_live_lag_seconds",
            "From a change of the catalogue to its effect.",
            Kind.HISTOGRAM,
            unit="seconds",
            buckets=_LIVE_LAG_SECONDS,
            merge=Merge.SUM,
            investigate_when="The 99th percentile is above 5 s. Every worker observes every change.",
        ),
    ]
    user_tower_runs: Annotated[
        int,
        WorkerMetric(
            "tandem_user_tower_runs",
            "User vectors computed.",
            Kind.COUNTER,
            unit="vectors",
            merge=Merge.SUM,
            investigate_when="Its ratio to `tandem_requests_total` grows: the vectors in the store are missing or "
            "stale.",
        ),
    ]
    bundle_swaps: Annotated[
        int,
        WorkerMetric(
            "tandem_bundle_swaps",
            "Bundles opened to serve.",
            Kind.COUNTER,
            unit="bundles",
            merge=Merge.SUM,
            investigate_when="It does not grow after a promotion: see `tandem_bundle_refused_total`.",
        ),
    ]
    refusals_by_kind: Annotated[
        Counter[str],
        WorkerMetric(
            "tandem_bundle_refused",
            "Bundles refused by kind of reason.",
            Kind.COUNTER,
            labels=("reason_kind",),
            unit="bundles",
            # The supervisor counts and tells the workers, so that their status shows the count too: no shares to sum.
            merge=Merge.MAX,
            investigate_when="It grows: a version that the alias names does not serve. `last_refusal` of "
            "GetServingStatus says why.",
        ),
    ]
    dependencies_up: Annotated[
        dict[str, bool],
        WorkerMetric(
            "tandem_dependency_up",
            "Whether a dependency answers.",
            Kind.GAUGE,
            labels=("dependency",),
            unit="0 or 1",
            merge=Merge.MIN,
            investigate_when="It is 0: some worker gets no answer. Without the `store`, answers are degraded; without "
            "`events`, writes are refused; without the `registry`, no new bundle arrives.",
        ),
    ]
    store_empty: Annotated[
        int,
        WorkerMetric(
            "tandem_store_empty",
            "Whether the store answers and holds no published states.",
            Kind.GAUGE,
            unit="0 or 1",
            merge=Merge.MAX,
            investigate_when="It is 1: the store was emptied, or never filled. `python -m feature_sync rebuild` "
            "restores users from the archive.",
        ),
    ]
    num_unauthenticated: Annotated[
        int,
        WorkerMetric(
            "tandem_unauthenticated",
            "Calls without valid credentials.",
            Kind.COUNTER,
            unit="calls",
            merge=Merge.SUM,
            investigate_when="It grows after a change of keys: a caller has the old one.",
        ),
    ]
    calls_by_caller: Annotated[
        Counter[str],
        WorkerMetric(
            "tandem_caller_calls",
            "Calls and bulk entries by the name of the caller's API key; those of more than 100 callers as `other`.",
            Kind.COUNTER,
            labels=("caller",),
            unit="calls",
            merge=Merge.SUM,
            investigate_when="One caller takes most of the server: give it a limit (`TANDEM_API_KEYS_FILE`).",
        ),
    ]
    refused_by_caller: Annotated[
        Counter[str],
        WorkerMetric(
            "tandem_caller_refused",
            "Calls with a valid key that lacks the right, may not name the user, or has reached its limit, by caller.",
            Kind.COUNTER,
            labels=("caller",),
            unit="calls",
            merge=Merge.SUM,
            investigate_when="It grows: the caller needs another key, or a higher limit.",
        ),
    ]
    files_reloaded: Annotated[
        Counter[str],
        WorkerMetric(
            "tandem_files_reloaded",
            "Changed files taken into use.",
            Kind.COUNTER,
            labels=("what",),
            unit="reloads",
            merge=Merge.SUM,
            investigate_when="It does not grow after `api_keys` or `tls_certificates` were replaced. Every worker "
            "counts its own.",
        ),
    ]
    files_refused: Annotated[
        Counter[str],
        WorkerMetric(
            "tandem_files_refused",
            "Changed files that cannot be used.",
            Kind.COUNTER,
            labels=("what",),
            unit="reloads",
            merge=Merge.SUM,
            investigate_when="It grows: the log has the reason (`files_refused`). Old certificates stay in use; of API "
            "keys, those that the file names.",
        ),
    ]
    num_dropped: Annotated[
        Counter[str],
        WorkerMetric(
            "tandem_dropped",
            "Traces and impressions that could not be kept.",
            Kind.COUNTER,
            labels=("what",),
            unit="traces or impressions",
            merge=Merge.SUM,
            investigate_when="`traces` grows: the collector is slow or away. `impressions` grows: the stream is away, "
            "or feature_sync takes nothing off. `impression_log` grows: the disk is slow or full.",
        ),
    ]

    def __init__(self) -> None:
        for attribute, metric in worker_metrics(type(self)).items():
            setattr(self, attribute, metric.initial())
