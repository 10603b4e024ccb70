"""`worker`: the process that answers requests. Builds the object graph, runs it, and takes it down.

It opens folders that the supervisor has had checked, and reads the online store; it does not use the registry.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import sys
import time
from collections import Counter
from collections.abc import Coroutine
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

import structlog

from inference_server.api.grpc.server import GrpcServer, Limits
from inference_server.api.grpc.servicer import RecommendationServicer
from inference_server.api.http.app import create_app
from inference_server.api.http.limits import HttpLimits
from inference_server.api.http.server import HttpServer
from inference_server.control.messages import (
    BreakerChanged,
    BundleNotOpened,
    BundleReady,
    BundleServing,
    CanaryChanged,
    CloseBundle,
    ControlChannel,
    DependencyChanged,
    ExperimentsChanged,
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
)
from inference_server.control.snapshot import to_plain
from inference_server.core.errors import OperationError, RefusalKind
from inference_server.core.settings import Settings
from inference_server.events.group_commit import GroupCommit
from inference_server.events.impression_stream import ImpressionStream
from inference_server.events.recorder import Recorder
from inference_server.events.stream_factory import open_stream
from inference_server.experiments.slot import ExperimentSlot
from inference_server.live.follower import LiveFollower
from inference_server.model.serving_model import ModelSlot, ServingModel
from inference_server.policy.policy_file import PolicyFile
from inference_server.request.admission import Admission
from inference_server.request.journal import Journal
from inference_server.request.policy_check import follow_policies
from inference_server.request.policy_choices import policy_choices
from inference_server.request.recommender import Recommender
from inference_server.request.shadow.shadows import ShadowPlan
from inference_server.security.api_keys import CallerLimits
from inference_server.security.files import Security
from inference_server.store.user_store import UserStore
from inference_server.telemetry.impressions import ImpressionLog, worker_path
from inference_server.telemetry.statistics import Refusal, Statistics, WorkerIdentity
from inference_server.telemetry.tracing import Tracing
from inference_server.worker.bundle_opening import open_beside
from inference_server.worker.canary_watch import CanaryWatch
from inference_server.worker.heartbeat import beat, show_stacks_on_request
from tandem.contract.errors import BundleError
from tandem.contract.streams import IMPRESSIONS
from tandem.ops.settings_types import split_names

_log = structlog.get_logger()

_ENGINE_THREADS: Final = 2
"""Threads for user towers and for searches of large catalogues: one call runs and one is ready to follow. More would
take the core from the event loop."""

_FLUSH_SECONDS: Final = 1.0
"""Time at shutdown in which queued traces and impressions may be written."""

_FAREWELL_SECONDS: Final = 1.0
"""How long a failing worker waits for its supervisor to read the reason."""


_SWITCH_SECONDS: Final = 0.001


class Worker:
    """The object graph of one worker process."""

    def __init__(self, settings: Settings, identity: WorkerIdentity, channel: ControlChannel) -> None:
        """Raises SettingsError or PoliciesInvalid if a file cannot be used."""
        self._settings = settings
        self._channel = channel
        self._models = ModelSlot()
        self._open_models: dict[int, ServingModel] = {}
        self._opening = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()
        self._statistics = Statistics(identity)
        self._store = UserStore(
            settings.store_url,
            self._statistics,
            model_version=lambda: "" if self._models.current is None else self._models.current.version,
        )
        self._live = LiveFollower(self._store, self._models, self._statistics, max_items=settings.max_live_items)
        self._threads = ThreadPoolExecutor(_ENGINE_THREADS, thread_name_prefix="engine")
        self._policies = PolicyFile(settings.policies_file, policy_choices())
        self._experiments = ExperimentSlot()
        self._canary = CanaryWatch(self._experiments, self._statistics, channel)
        self._admission = Admission(
            self._models,
            self._policies,
            experiments=self._experiments,
            max_concurrent_requests=settings.max_concurrent_requests,
            max_seconds=settings.deadline_ms * 1e-3,
        )
        self._security = Security.load(
            tls=settings.tls,
            api_keys_file=settings.api_keys_file,
            limits=CallerLimits(
                max_concurrent=settings.caller_max_concurrent, max_rate=settings.caller_max_calls_per_second
            ),
            strict=False,
        )
        self._tracing = Tracing(settings.otlp_endpoint, sample_ratio=settings.trace_sample_ratio)
        self._impression_log = _impression_log(settings, identity)
        self._impression_stream = _impression_stream(settings, self._statistics)
        self._statistics.add_source(self._bring_up_to_date)
        self._statistics.add_source(self._live.bring_up_to_date)
        self._recommender = Recommender(
            admission=self._admission,
            store=self._store,
            threads=self._threads,
            statistics=self._statistics,
            journal=Journal(
                self._tracing,
                [sink for sink in (self._impression_stream, self._impression_log) if sink is not None],
                impressions_share=settings.impressions_share,
            ),
            shadow=ShadowPlan(models=split_names(settings.shadow_model), share=settings.shadow_share),
            canary=self._canary.counts,
        )
        self._recorder = Recorder(
            GroupCommit(open_stream(settings), self._statistics, max_backlog=settings.events_max_backlog),
            self._statistics,
            max_seconds=settings.events_deadline_ms * 1e-3,
            on_events=self._canary.recorded,
        )
        self._grpc: GrpcServer | None = None
        self._http: HttpServer | None = None

    async def run(self) -> None:
        """Answers requests until SIGTERM or until the supervisor has gone, then shuts down gracefully.

        Raises PortUnavailable, and any exception that one of the supervisor's orders raises.
        """
        # A ready thread waits this long for the interpreter; the default of 5 ms is long compared with a request.
        sys.setswitchinterval(_SWITCH_SECONDS)
        show_stacks_on_request()
        stop_requested = asyncio.Event()
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, stop_requested.set)
        # Ctrl-C reaches the whole process group, as the end of a terminal does; the supervisor decides what it means.
        for number in (signal.SIGINT, signal.SIGHUP, signal.SIGUSR1):
            loop.add_signal_handler(number, lambda: None)
        await self._store.start()
        await self._recommender.start()
        await self._recorder.start()
        if self._impression_stream is not None:
            await self._impression_stream.start()
        # Not among the tasks that are cancelled first at shutdown: a worker that drains does not hang.
        beating = asyncio.create_task(beat(self._channel), name="beat")
        self._start(self._live.run())
        self._start(self._policies.run())
        self._start(self._canary.run())
        if self._statistics.identity.worker == 1:  # one worker speaks for all
            self._start(follow_policies(self._policies, self._models))
        self._start(self._security.keep_current(self._statistics))
        obeying = asyncio.create_task(self._obey(), name="control")
        stopping = asyncio.create_task(stop_requested.wait(), name="stop")
        await asyncio.wait({obeying, stopping}, return_when=asyncio.FIRST_COMPLETED)
        reason = "SIGTERM" if stopping.done() else "its supervisor stops or has gone"
        _log.info("draining", reason=reason, requests_in_flight=self._admission.in_flight)
        await self._recommender.shadows.close()  # first: the calls in flight have all of the worker
        grace_seconds = self._settings.shutdown_grace_seconds
        servers = [server for server in (self._grpc, self._http) if server is not None]
        await asyncio.gather(*(server.stop(grace_seconds=grace_seconds) for server in servers))
        tasks = (obeying, stopping, *self._tasks)
        for task in tasks:
            task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        await self._recommender.close()
        await self._recorder.close()
        await asyncio.to_thread(self._tracing.close, timeout_seconds=_FLUSH_SECONDS)
        if self._impression_stream is not None:
            await self._impression_stream.close(timeout_seconds=_FLUSH_SECONDS)
        if self._impression_log is not None:
            await asyncio.to_thread(self._impression_log.close, timeout_seconds=_FLUSH_SECONDS)
        await self._store.close()
        self._threads.shutdown(wait=False, cancel_futures=True)
        beating.cancel()
        if isinstance(results[0], Exception):
            raise results[0]

    async def _obey(self) -> None:
        """Executes the supervisor's orders until the supervisor has gone. Raises PortUnavailable."""
        while (message := await self._channel.receive()) is not None:
            if isinstance(message, Listen):
                await self._listen(message)
            elif isinstance(message, OpenBundle):
                # Opening takes seconds: a switch to a bundle that is already open must not wait for it.
                self._start(self._open(message))
            elif isinstance(message, ServeBundle):
                await self._serve(message)
            else:
                self._note(message)

    def _note(self, message: Message) -> None:
        if isinstance(message, CloseBundle):
            if (model := self._open_models.pop(message.bundle, None)) is not None:
                self._live.forget(model)
        elif isinstance(message, WithdrawModel):
            self._live.withdraw(message.name)
            self._recommender.forget_arm(message.name)
        elif isinstance(message, FurtherModels):
            self._statistics.further_models = dict(message.problems)
        elif isinstance(message, RefusalsCounted):
            self._statistics.refusals_by_kind = Counter(message.by_kind)
            self._statistics.last_refusal = message.last
            self._statistics.refusals = tuple(Refusal(**refusal) for refusal in message.bundles)
        elif isinstance(message, DependencyChanged):
            self._statistics.dependencies_up[message.dependency] = message.up
            self._statistics.dependency_problems.pop(message.dependency, None)
            if message.problem:
                self._statistics.dependency_problems[message.dependency] = message.problem
        elif isinstance(message, ExperimentsChanged):
            self._experiments.follow(message.document, message.status)
            self._statistics.experiments = self._experiments.status
        elif isinstance(message, CanaryChanged):
            self._canary.follow(message)
        elif isinstance(message, BreakerChanged):
            self._statistics.breakers[message.name] = message.state
        elif isinstance(message, StatisticsRequested):
            self._channel.post(StatisticsReported(request=message.request, statistics=to_plain(self._statistics)))

    async def _listen(self, message: Listen) -> None:
        """Binds the shared ports. Not earlier: the kernel sends a share of the callers to every process that has
        bound."""
        settings = self._settings
        self._grpc = GrpcServer(
            RecommendationServicer(self._recommender, self._recorder, self._models, self._statistics),
            self._statistics,
            host=settings.host,
            port=message.grpc_port,
            reflection_enabled=settings.reflection,
            channelz_enabled=settings.channelz,
            limits=Limits(
                max_request_bytes=settings.max_request_bytes, max_streams=settings.max_streams_per_connection
            ),
            security=self._security,
        )
        if message.http_port:
            app = create_app(
                self._recommender,
                self._recorder,
                self._models,
                self._statistics,
                api_keys=self._security.api_keys,
                max_body_bytes=settings.max_request_bytes,
                cors_origins=settings.cors_origins,
            )
            self._http = HttpServer(
                app,
                host=settings.host,
                port=message.http_port,
                statistics=self._statistics,
                limits=HttpLimits.of(settings),
                reuse_port=True,
                certificates=self._security.certificates,
            )
            await self._http.start()
        await self._grpc.start()
        if self._models.current is not None:
            await self._grpc.set_serving()
        await self._channel.send(Listening(grpc_port=self._grpc.port, http_port=message.http_port))

    async def _open(self, message: OpenBundle) -> None:
        """Phase one: opens and warms a bundle off the event loop."""
        async with self._opening:
            try:
                model = await open_beside(Path(message.directory), registry_version=message.registry_version)
            except BundleError as error:
                kind = RefusalKind.of(error)
                await self._channel.send(BundleNotOpened(bundle=message.bundle, reason_kind=kind, reason=str(error)))
                return
        await self._live.prepare(model)
        self._open_models[message.bundle] = model
        await self._channel.send(BundleReady(bundle=message.bundle))

    async def _serve(self, message: ServeBundle) -> None:
        """Phase two: moves a pointer to the bundle and to the items that changed since the bundle was made."""
        model = self._open_models[message.bundle]
        await self._live.serve(model, variant=message.variant, is_further=message.is_further)
        switched_at_seconds = time.monotonic()
        await self._channel.send(BundleServing(order=message.order, switched_at_seconds=switched_at_seconds))
        _log.info(
            "model_opened",
            model_version=model.version,
            registry_version=model.registry_version,
            variant=message.variant,
        )
        if self._grpc is not None and not message.is_further:
            await self._grpc.set_serving()

    def _bring_up_to_date(self) -> None:
        statistics = self._statistics
        statistics.queue_requests = self._recommender.num_waiting
        statistics.num_unauthenticated = self._security.num_unauthenticated
        if (api_keys := self._security.api_keys) is not None:
            for caller, (num_calls, num_refused) in api_keys.usage_by_caller().items():
                statistics.calls_by_caller[caller] = num_calls
                statistics.refused_by_caller[caller] = num_refused
        statistics.policies_fingerprint = self._policies.current.fingerprint
        statistics.num_dropped["traces"] = self._tracing.num_dropped
        if self._impression_log is not None:
            statistics.num_dropped["impression_log"] = self._impression_log.num_dropped
        if self._impression_stream is not None:
            statistics.num_dropped["impressions"] = self._impression_stream.num_dropped

    def _start(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _impression_log(settings: Settings, identity: WorkerIdentity) -> ImpressionLog | None:
    if settings.impression_log is None:
        return None
    path = worker_path(settings.impression_log, identity.worker)
    return ImpressionLog(path, max_bytes=settings.impression_log_max_bytes)


def _impression_stream(settings: Settings, statistics: Statistics) -> ImpressionStream | None:
    if settings.impressions == "off":
        return None
    stream = open_stream(settings, [IMPRESSIONS])
    return ImpressionStream(stream, statistics, max_backlog=settings.impressions_max_backlog)


async def run_worker(settings: Settings, identity: WorkerIdentity, control: socket.socket) -> None:
    """Runs a worker that is controlled over `control`. Raises the exception that ends it, after reporting it."""
    channel = await ControlChannel.over(control)
    try:
        await Worker(settings, identity, channel).run()
    except Exception as error:
        await channel.send(WorkerFailed(reason=str(error) if isinstance(error, OperationError) else repr(error)))
        # If orders stayed unread, closing the socket would make the kernel drop the message.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_FAREWELL_SECONDS):
                while await channel.receive() is not None:
                    pass
        raise
    finally:
        await channel.close()
