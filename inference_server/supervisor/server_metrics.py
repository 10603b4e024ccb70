"""Every metric that the supervisor knows by itself, declared once and in the order of the /metrics page.

The page shows them after those of the workers (`telemetry.metrics`).

A new metric is one entry here: its declaration, and how its samples are read from the view of the server.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Final

from inference_server.canary.layer import CANARY, CONTROL, FULL_PERCENT
from inference_server.core.canary_status import CanaryStatus
from inference_server.supervisor.process_usage import ProcessUsage
from inference_server.supervisor.server_view import ServerView
from tandem.ops.metrics import Kind, Metric

Sample = tuple[tuple[str, ...], float]
"""Label values in the order of the metric's labels, and the value."""


@dataclass(frozen=True)
class ServerMetric(Metric):
    """A metric that is read from the server's state when the page is made."""

    _: KW_ONLY
    read: Callable[[ServerView], Iterable[Sample]]
    """The samples; none where there is nothing to show yet."""


def _of_processes(read: Callable[[ProcessUsage], float]) -> Callable[[ServerView], Iterable[Sample]]:
    """One sample for each worker that has a process."""
    return lambda view: [
        ((str(worker.worker),), read(worker.usage)) for worker in view.workers if worker.usage is not None
    ]


def _unlabelled(read: Callable[[ServerView], float | None]) -> Callable[[ServerView], Iterable[Sample]]:
    """One sample, or none where there is no value."""
    return lambda view: [] if (value := read(view)) is None else [((), value)]


def _model_info(view: ServerView) -> Iterable[Sample]:
    if view.serving is None:
        return []
    version = view.serving.version
    return [((view.serving.report.model_version, view.variant, version.number), 1)]


def _further_model_info(view: ServerView) -> Iterable[Sample]:
    return [
        ((track.name, track.serving.report.model_version, track.serving.version.number), 1)
        for track in view.further
        if track.serving is not None
    ]


def _experiments_info(view: ServerView) -> Iterable[Sample]:
    table = view.experiments
    return [((table.source, table.fingerprint), 1)] if table.source else []


def _canary_info(view: ServerView) -> Iterable[Sample]:
    canary = view.canary
    labels = (canary.experiment, canary.model_version, canary.registry_version, canary.state)
    return [(labels, 1)] if canary.experiment else []


def _canary_answers(view: ServerView) -> Iterable[Sample]:
    canary = view.canary
    return [((CANARY,), canary.answers), ((CONTROL,), canary.control_answers)] if canary.experiment else []


def _of_canary(read: Callable[[CanaryStatus], float]) -> Callable[[ServerView], Iterable[Sample]]:
    """One sample, or none where there has been no canary."""
    return lambda view: [((), read(view.canary))] if view.canary.experiment else []


SERVER_METRICS: Final[Sequence[ServerMetric]] = (
    ServerMetric(
        "tandem_worker_restarts",
        "Workers started in place of one that ended.",
        Kind.COUNTER,
        unit="restarts",
        read=_unlabelled(lambda view: sum(worker.restarts for worker in view.workers)),
        investigate_when="It grows: a worker crashed or was killed; the log has its exit status (`worker_ended`).",
    ),
    ServerMetric(
        "tandem_worker_up",
        "Whether a worker answers.",
        Kind.GAUGE,
        labels=("worker",),
        unit="0 or 1",
        read=lambda view: [((str(worker.worker),), worker.up) for worker in view.workers],
        investigate_when="It stays 0 for a worker that hangs or does not come up again.",
    ),
    ServerMetric(
        "tandem_worker_resident_memory_bytes",
        "Memory, shared pages in full.",
        Kind.GAUGE,
        labels=("worker",),
        unit="bytes",
        read=_of_processes(lambda usage: usage.resident_memory_bytes),
        investigate_when="It grows from day to day. The sum over the workers counts shared pages several times.",
    ),
    ServerMetric(
        "tandem_worker_cpu_seconds",
        "Processor time of the process now running.",
        Kind.COUNTER,
        labels=("worker",),
        unit="seconds",
        read=_of_processes(lambda usage: usage.cpu_seconds),
        investigate_when="Workers differ much under load: the kernel does not spread the connections.",
    ),
    ServerMetric(
        "tandem_worker_threads",
        "Threads.",
        Kind.GAUGE,
        labels=("worker",),
        unit="threads",
        read=_of_processes(lambda usage: usage.num_threads),
    ),
    ServerMetric(
        "tandem_worker_open_fds",
        "Open file descriptors.",
        Kind.GAUGE,
        labels=("worker",),
        unit="file descriptors",
        read=_of_processes(lambda usage: usage.open_fds),
        investigate_when="It nears the limit of the process (`ulimit -n`).",
    ),
    ServerMetric(
        "tandem_model_info",
        "The model that serves.",
        Kind.GAUGE,
        labels=("model_version", "variant", "registry_version"),
        unit="always 1",
        read=_model_info,
        investigate_when="It is missing: no bundle serves. Its labels are not those of the promoted version.",
    ),
    ServerMetric(
        "tandem_further_model_up",
        "Whether a model answers beside the server's own.",
        Kind.GAUGE,
        labels=("model",),
        unit="0 or 1",
        read=lambda view: [((track.name,), track.serving is not None) for track in view.further],
        investigate_when="It is 0: the server's own model answers for the arms of this alias or version; "
        "`further_model_problem` in the log, and `models` of GetServingStatus, say why.",
    ),
    ServerMetric(
        "tandem_further_model_problem",
        "Whether something is wrong with a model beside the server's own: its newest version is not served.",
        Kind.GAUGE,
        labels=("model",),
        unit="0 or 1",
        read=lambda view: [((track.name,), bool(track.problem)) for track in view.further],
        investigate_when="It is 1; the log and GetServingStatus say why, as above.",
    ),
    ServerMetric(
        "tandem_further_model_info",
        "The models that answer beside the server's own.",
        Kind.GAUGE,
        labels=("model", "model_version", "registry_version"),
        unit="always 1",
        read=_further_model_info,
        investigate_when="Its labels are not those of the version that an experiment compares.",
    ),
    ServerMetric(
        "tandem_swap_window_seconds",
        "First to last worker's switch at the newest swap.",
        Kind.GAUGE,
        unit="seconds",
        read=_unlabelled(lambda view: view.swap_window_seconds),
        investigate_when="It is more than some milliseconds: for that long, callers saw two versions.",
    ),
    ServerMetric(
        "tandem_index_recall",
        "Recall of the serving index at its nprobe, as checked here.",
        Kind.GAUGE,
        unit="share, 0 to 1",
        read=_unlabelled(lambda view: None if view.serving is None else view.serving.report.recall_at_nprobe),
        investigate_when="It drops from one version to the next: the index misses items that the model would "
        "recommend.",
    ),
    ServerMetric(
        "tandem_bundle_overlap_with_previous",
        "Share of recommendations that the bundle before made too.",
        Kind.GAUGE,
        unit="share, 0 to 1",
        read=_unlabelled(lambda view: None if view.serving is None else view.serving.report.overlap_with_previous),
        investigate_when="It is far below that of earlier versions. `TANDEM_MIN_SWAP_OVERLAP` refuses such bundles.",
    ),
    ServerMetric(
        "tandem_experiments_info",
        "The table of experiments in force.",
        Kind.GAUGE,
        labels=("source", "fingerprint"),
        unit="always 1",
        read=_experiments_info,
        investigate_when="`source` is `disk`: the table of before the restart serves, because Unleash has not answered "
        "since. Servers show different fingerprints for longer than the refresh.",
    ),
    ServerMetric(
        "tandem_experiments_age_seconds",
        "Time since the source of the experiments last confirmed the table in force.",
        Kind.GAUGE,
        unit="seconds",
        read=_unlabelled(lambda view: view.experiments.age_seconds if view.experiments.source else None),
        investigate_when="It is several times `TANDEM_UNLEASH_REFRESH_SECONDS`: Unleash is away, and a flag that is "
        "turned off there stays on here.",
    ),
    ServerMetric(
        "tandem_experiments_refused",
        "Tables of experiments that were refused.",
        Kind.COUNTER,
        unit="tables",
        read=_unlabelled(lambda view: view.experiments.num_refused),
        investigate_when="It grows: a flag or the file has a mistake and the last good table serves; the log "
        "(`experiments_refused`) and GetServingStatus say which.",
    ),
    ServerMetric(
        "tandem_canary_info",
        "The newest canary.",
        Kind.GAUGE,
        labels=("experiment", "model_version", "registry_version", "state"),
        unit="always 1",
        read=_canary_info,
        investigate_when="`state` is `taken_back`: the log (`canary_withdrawn`) and GetServingStatus say why.",
    ),
    ServerMetric(
        "tandem_canary_step",
        "The step that the canary is in, from 1.",
        Kind.GAUGE,
        unit="step",
        read=_of_canary(lambda canary: canary.step),
    ),
    ServerMetric(
        "tandem_canary_share",
        "Share of the users that this server gives the canary.",
        Kind.GAUGE,
        unit="share, 0 to 1",
        read=_of_canary(lambda canary: canary.percent / FULL_PERCENT),
        investigate_when="It is 0 although the canary runs: GetServingStatus says why (`problem`).",
    ),
    ServerMetric(
        "tandem_canary_answers",
        "Answers to users of the newest canary, and of its control group.",
        Kind.GAUGE,
        labels=("arm",),
        unit="answers",
        read=_canary_answers,
    ),
    ServerMetric(
        "tandem_canary_harmed_answers",
        "Answers to users of the newest canary that were errors, degraded, short, or bad in the sense of the broken "
        "guardrail.",
        Kind.GAUGE,
        unit="answers",
        read=_of_canary(lambda canary: canary.harmed),
        investigate_when="It grows: a guardrail is about to be broken.",
    ),
    ServerMetric(
        "tandem_canary_moves",
        "Moves of canaries that this server made or saw.",
        Kind.COUNTER,
        labels=("move",),
        unit="moves",
        read=lambda view: [((move,), count) for move, count in view.canary_moves.items()],
        investigate_when="`taken_back` grows: the log says why (`canary_taken_back`).",
    ),
    ServerMetric(
        "tandem_notifications",
        "Messages to the channels of TANDEM_NOTIFY_URLS_FILE by outcome.",
        Kind.COUNTER,
        labels=("outcome",),
        unit="messages",
        read=lambda view: [((outcome,), count) for outcome, count in view.notifications.items()],
        investigate_when="`failed` or `dropped` grows: a channel takes nothing; the log says which, and why "
        "(`notification_failed`).",
    ),
)
