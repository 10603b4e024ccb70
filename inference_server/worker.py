"""`worker`: the process that answers requests. Builds the object graph, runs it, and takes it down.

It opens folders that the supervisor had checked, and reads the online store; it knows of no registry.
"""

from __future__ import annotations

import asyncio
import signal
import socket
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

import structlog

from inference_server.control import (
    BundleOpened,
    BundleRefused,
    ControlChannel,
    DependencyChanged,
    Listening,
    OpenBundle,
)
from inference_server.errors import RefusalKind
from inference_server.grpc_api.server import GrpcServer, Limits
from inference_server.grpc_api.servicer import RecommendationServicer
from inference_server.http_api.app import create_app
from inference_server.http_api.server import HttpServer
from inference_server.impressions import ImpressionLog
from inference_server.journal import Journal
from inference_server.metrics import MetricsServer, StatisticsCollector
from inference_server.policies import PolicyFile
from inference_server.recommend import Recommender
from inference_server.security.files import Security
from inference_server.serving_model import ModelSlot, open_model
from inference_server.settings import Settings
from inference_server.stages.admit import Admission
from inference_server.statistics import Statistics
from inference_server.store import UserStore
from inference_server.tracing import Tracing
from tandem.contract.errors import BundleError

_log = structlog.get_logger()

_ENGINE_THREADS: Final = 2
"""Threads for user towers and for searches of large catalogues: one call at work and one ready to follow. More would
take the core from the event loop."""

_FLUSH_SECONDS: Final = 1.0
"""What traces and impressions that wait may take at shutdown."""


class Worker:
    """Everything one worker process is made of."""

    def __init__(self, settings: Settings, channel: ControlChannel) -> None:
        """Binds the ports. Raises PortUnavailable, and SettingsError when a file cannot be used."""
        self._settings = settings
        self._channel = channel
        self._models = ModelSlot()
        self._statistics = Statistics()
        self._store = UserStore(settings.store_url, self._statistics)
        self._threads = ThreadPoolExecutor(_ENGINE_THREADS, thread_name_prefix="engine")
        self._policies = PolicyFile(settings.policies_file)
        self._statistics.policies_fingerprint = lambda: self._policies.current.fingerprint
        self._admission = Admission(
            self._models,
            self._policies,
            max_concurrent_requests=settings.max_concurrent_requests,
            max_seconds=settings.deadline_ms * 1e-3,
        )
        self._security = Security.load(tls=settings.tls, api_keys_file=settings.api_keys_file)
        self._statistics.num_unauthenticated = lambda: self._security.num_unauthenticated
        self._tracing = Tracing(settings.otlp_endpoint, sample_ratio=settings.trace_sample_ratio)
        self._statistics.num_dropped["traces"] = lambda: self._tracing.num_dropped
        self._impressions = impressions = _impression_log(settings)
        if impressions is not None:
            self._statistics.num_dropped["impressions"] = lambda: impressions.num_dropped
        self._recommender = Recommender(
            admission=self._admission,
            store=self._store,
            threads=self._threads,
            statistics=self._statistics,
            journal=Journal(self._tracing, self._impressions),
        )
        self._grpc = GrpcServer(
            RecommendationServicer(self._recommender, self._models, self._statistics),
            host=settings.host,
            port=settings.grpc_port,
            reflection_enabled=settings.reflection,
            channelz_enabled=settings.channelz,
            limits=Limits(
                max_request_bytes=settings.max_request_bytes, max_streams=settings.max_streams_per_connection
            ),
            security=self._security,
        )
        self._http: HttpServer | None = None
        if settings.http_enabled:
            app = create_app(
                self._recommender,
                self._models,
                self._statistics,
                api_keys=self._security.api_keys,
                max_body_bytes=settings.max_request_bytes,
            )
            self._http = HttpServer(
                app, host=settings.host, port=settings.http_port, certificates=self._security.certificates
            )
        self._metrics = MetricsServer(
            StatisticsCollector(self._statistics, self._models), host=settings.host, port=settings.metrics_port
        )

    async def run(self) -> None:
        """Answers requests until SIGTERM or until the supervisor is gone, then shuts down gracefully."""
        stop_requested = asyncio.Event()
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, stop_requested.set)
        # Ctrl-C reaches the whole process group; the supervisor decides what it means.
        loop.add_signal_handler(signal.SIGINT, lambda: None)
        await self._store.start()
        await self._recommender.start()
        reloading = [
            asyncio.create_task(self._policies.run(), name="policies"),
            asyncio.create_task(self._security.keep_current(self._statistics), name="security"),
        ]
        await self._grpc.start()
        if self._http is not None:
            await self._http.start()
        http_port = 0 if self._http is None else self._http.port
        await self._channel.send(
            Listening(grpc_port=self._grpc.port, http_port=http_port, metrics_port=self._metrics.port)
        )
        obeying = asyncio.create_task(self._obey(), name="control")
        stopping = asyncio.create_task(stop_requested.wait(), name="stop")
        await asyncio.wait({obeying, stopping}, return_when=asyncio.FIRST_COMPLETED)
        _log.info("draining", requests_in_flight=self._admission.in_flight)
        grace_seconds = self._settings.shutdown_grace_seconds
        stops = [self._grpc.stop(grace_seconds=grace_seconds)]
        if self._http is not None:
            stops.append(self._http.stop(grace_seconds=grace_seconds))
        await asyncio.gather(*stops)
        obeying.cancel()
        stopping.cancel()
        for task in reloading:
            task.cancel()
        await asyncio.gather(obeying, stopping, *reloading, return_exceptions=True)
        await self._recommender.close()
        await asyncio.to_thread(self._tracing.close, timeout_seconds=_FLUSH_SECONDS)
        if self._impressions is not None:
            await asyncio.to_thread(self._impressions.close, timeout_seconds=_FLUSH_SECONDS)
        await self._store.close()
        self._metrics.close()
        self._threads.shutdown(wait=False, cancel_futures=True)
        await self._channel.close()

    async def _obey(self) -> None:
        """Does what the supervisor says, until it is gone."""
        while (message := await self._channel.receive()) is not None:
            if isinstance(message, OpenBundle):
                await self._open(message)
            elif isinstance(message, BundleRefused):
                self._statistics.count_refusal(message.reason_kind, message.reason)
            elif isinstance(message, DependencyChanged):
                self._statistics.dependencies_up[message.dependency] = message.up

    async def _open(self, message: OpenBundle) -> None:
        """Opens and warms a bundle off the event loop, then moves the one pointer."""
        try:
            model = await asyncio.to_thread(
                open_model,
                Path(message.directory),
                variant=message.variant,
                registry_version=message.registry_version,
                verify_checksums=False,
            )
        except BundleError as error:
            kind = RefusalKind.of(error)
            await self._channel.send(
                BundleRefused(registry_version=message.registry_version, reason_kind=kind, reason=str(error))
            )
            return
        self._models.current = model
        self._statistics.bundle_swaps += 1
        await self._grpc.set_serving()
        _log.info("model_opened", model_version=model.version, registry_version=model.registry_version)
        await self._channel.send(BundleOpened(registry_version=message.registry_version, model_version=model.version))


def _impression_log(settings: Settings) -> ImpressionLog | None:
    if settings.impression_log is None:
        return None
    return ImpressionLog(settings.impression_log, max_bytes=settings.impression_log_max_bytes)


async def run_worker(settings: Settings, control: socket.socket) -> None:
    """Runs a worker that is controlled over `control`. Raises PortUnavailable."""
    worker = Worker(settings, await ControlChannel.over(control))
    await worker.run()
