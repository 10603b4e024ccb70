"""`serve`: the supervisor. Starts the worker, keeps it on the right bundle, and stops it.

It is the only process that speaks to the registry. It answers no request, so nothing it does can delay one.
"""

from __future__ import annotations

import asyncio
import signal
from typing import Any, Final

import structlog

from inference_server.bundle_cache import BundleCache
from inference_server.errors import BundleRefused
from inference_server.registry import Registry
from inference_server.rollout import AliasFollower, serve_folder
from inference_server.settings import Settings
from inference_server.worker_process import WorkerProcess

_log = structlog.get_logger()

_STOPPING_EXTRA_SECONDS: Final = 5.0
"""What a worker may take beyond its grace period to close its connections."""


async def supervise(settings: Settings) -> int:
    """Serves until SIGTERM or SIGINT. Returns the exit status: 0, or 1 when the worker ended or nothing can serve."""
    stop_requested = asyncio.Event()
    loop = asyncio.get_running_loop()
    for signal_number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(signal_number, stop_requested.set)
    worker = await WorkerProcess.start()
    tasks: set[asyncio.Task[Any]] = {
        asyncio.create_task(stop_requested.wait(), name="stop"),
        asyncio.create_task(worker.wait(), name="worker"),
        asyncio.create_task(_serve(settings, worker), name="serve"),
    }
    finished, unfinished = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in unfinished:
        task.cancel()
    await asyncio.gather(*unfinished, return_exceptions=True)
    stopping = stop_requested.is_set()
    if not stopping:
        _log_end(finished)
    else:
        _log.info("stopping")
    worker_status = await worker.stop(grace_seconds=settings.shutdown_grace_seconds + _STOPPING_EXTRA_SECONDS)
    _log.info("stopped", worker_exit_status=worker_status)
    return 0 if stopping and worker_status == 0 else 1


async def _serve(settings: Settings, worker: WorkerProcess) -> None:
    """Keeps the worker on the right bundle. Raises BundleRefused when the one folder to serve is refused."""
    listening = await worker.listening()
    _log.info(
        "server_listening",
        host=settings.host,
        grpc_port=listening.grpc_port,
        http_port=listening.http_port,
        metrics_port=listening.metrics_port,
    )
    if settings.bundle_path is not None:
        await serve_folder(settings.bundle_path, worker)
        await asyncio.Event().wait()
    name, alias = settings.model_name, settings.model_alias
    follower = AliasFollower(
        registry=Registry(settings.registry_uri, model_name=name, alias=alias),
        cache=BundleCache(settings.data_dir, model_name=name, alias=alias),
        worker=worker,
        alias=alias,
    )
    await follower.run(poll_seconds=settings.registry_poll_seconds)


def _log_end(finished: set[asyncio.Task[Any]]) -> None:
    """Says why the server ends although nobody asked it to."""
    for task in finished:
        if task.get_name() == "worker":
            _log.error("worker_ended", exit_status=task.result())
        elif isinstance(error := task.exception(), BundleRefused):
            _log.error("nothing_to_serve", reason=error.reason)
        elif error is not None:
            _log.error("supervisor_failed", exc_info=error)
