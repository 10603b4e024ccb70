"""`serve`: the supervisor. Starts the workers, keeps them on the right bundle, shows them to Prometheus, stops them.

It is the only process that reads the registry. It answers no requests, so nothing it does can delay an answer.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import Any, Final

import structlog

from inference_server.core.errors import BundleRefused, CommandFailed, OperationError, PortUnavailable
from inference_server.core.settings import Settings
from inference_server.supervisor.announcements import Announcements
from inference_server.supervisor.barred_versions import BarredVersions
from inference_server.supervisor.bundle_cache import BundleCache, VersionsInWork
from inference_server.supervisor.canary_commands import CANARY_COMMANDS, NO_REGISTRY, CanaryCommands
from inference_server.supervisor.canary_follower import CanaryFollower
from inference_server.supervisor.canary_moves import CanaryMoves
from inference_server.supervisor.canary_registry import CanaryRegistry
from inference_server.supervisor.experiment_sources import Definitions, FileSource, Source
from inference_server.supervisor.experiments_follower import ExperimentsFollower, kept_up
from inference_server.supervisor.further_models import FurtherModels
from inference_server.supervisor.held_ports import hold_port
from inference_server.supervisor.known_names import KnownNames
from inference_server.supervisor.metrics import MetricsServer, StatisticsCollector
from inference_server.supervisor.notifier import Notifier
from inference_server.supervisor.operator_socket import Command, listen_to_operators
from inference_server.supervisor.registry import Registry
from inference_server.supervisor.rollout import AliasFollower, serve_folder
from inference_server.supervisor.server_view import ServerView
from inference_server.supervisor.shadow_report import shadow_report
from inference_server.supervisor.track import Track
from inference_server.supervisor.unleash import follow_unleash, origin_of
from inference_server.supervisor.worker_pool import WorkerPool
from tandem.contract.experiments import ExperimentTable
from tandem.ops.metrics_access import AccessFiles
from tandem.ops.settings_types import split_names

_log = structlog.get_logger()

_STOPPING_EXTRA_SECONDS: Final = 5.0
"""Time beyond its grace period in which a worker may close its connections."""


_READ_AGAIN: Final = "none is needed: changed certificates, keys and policies are in use within a second or two"

_VIEW_SECONDS: Final = 5.0
"""Longest time for which a scrape waits for the event loop."""


async def supervise(settings: Settings) -> int:
    """Serves until SIGTERM or SIGINT. Returns the exit status: 0, or 1 if no worker starts or no bundle can serve."""
    stop_requested = asyncio.Event()
    loop = asyncio.get_running_loop()

    def stop(signal_name: str) -> None:
        stop_requested.set()  # first: a log that nobody reads any more must not keep the server from stopping
        _log.info("signal_received", signal=signal_name, effect="the server stops")

    def explain(signal_name: str, effect: str) -> None:
        _log.info("signal_received", signal=signal_name, effect=effect)

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop, number.name)
    loop.add_signal_handler(signal.SIGHUP, explain, signal.SIGHUP.name, _READ_AGAIN)
    for number in (signal.SIGUSR1, signal.SIGUSR2):
        loop.add_signal_handler(number, explain, number.name, "none")
    try:
        async with AsyncExitStack() as stack:
            return await _Supervisor(settings, stack).run(stop_requested)
    except PortUnavailable as error:
        _log.error("port_unavailable", reason=str(error))
        return 1


class _Supervisor:
    """The parts of a supervisor. They are released when `stack` is closed."""

    def __init__(self, settings: Settings, stack: AsyncExitStack) -> None:
        """Binds the ports. Raises PortUnavailable."""
        self._settings = settings
        self._stack = stack
        self._grpc_port = stack.enter_context(hold_port(settings.host, settings.grpc_port, purpose="gRPC"))
        self._http_port = 0
        if settings.http_enabled:
            self._http_port = stack.enter_context(hold_port(settings.host, settings.http_port, purpose="HTTP"))
        self._pool = WorkerPool(
            alias="" if settings.bundle_path is not None else settings.model_alias,
            num_workers=settings.workers,
            grpc_port=self._grpc_port,
            http_port=self._http_port,
            start_attempts=settings.worker_start_attempts,
            hang_seconds=settings.worker_hang_seconds,
        )
        loop = asyncio.get_running_loop()

        def view() -> ServerView:
            # Scrapes are handled in threads of their own; the pool belongs to the event loop's thread.
            return asyncio.run_coroutine_threadsafe(self._view(), loop).result(_VIEW_SECONDS)

        self._metrics = MetricsServer(
            StatisticsCollector(view),
            host=settings.host,
            port=settings.metrics_port,
            files=AccessFiles.of(settings),
        )
        # Closing waits for the thread that handles scrapes.
        stack.push_async_callback(asyncio.to_thread, self._metrics.close)
        self._registry: Registry | None = None
        self._follower: AliasFollower | None = None
        self._in_work = VersionsInWork()
        if settings.bundle_path is None:
            self._registry = Registry(
                settings.registry_uri,
                model_name=settings.model_name,
                alias=settings.model_alias,
                download_seconds=settings.bundle_timeout_seconds,
            )
            self._follower = self._make_follower(self._registry, self._pool.own)
        self.further = FurtherModels(
            self._pool,
            make_follower=None if self._registry is None else self._follow_beside,
            always=split_names(f"{settings.further_models},{settings.shadow_model}"),
            poll_seconds=settings.registry_poll_seconds,
        )
        self._announcements = Announcements(
            settings.store_url, model_name=settings.model_name, models=self.further.wanted
        )
        self._notifier = Notifier(settings.notify_urls_file)
        stack.push_async_callback(self._notifier.close)
        self._pool.on_refusal = lambda number, reason: self._notifier.tell(
            f"Tandem: version {number} refused" if number else "Tandem: bundle refused", reason
        )
        self._moves = CanaryMoves(self._notifier)
        self._canary: CanaryFollower | None = None
        if self._registry is not None and self._follower is not None:
            self._canary_registry = CanaryRegistry(self._registry, data_dir=settings.data_dir)
            self._canary = CanaryFollower(
                pool=self._pool,
                further=self.further,
                registry=self._canary_registry,
                moves=self._moves,
                data_dir=settings.data_dir,
                poll_seconds=settings.registry_poll_seconds,
                on_promoted=self._follower.look,
            )
            self._pool.on_canary_counted = self._canary.counted

    async def run(self, stop_requested: asyncio.Event) -> int:
        """Serves until a stop is requested or no bundle can serve. Returns the exit status."""
        await self._stack.enter_async_context(listen_to_operators(self._settings.data_dir, self._do))
        tasks: set[asyncio.Task[Any]] = {
            asyncio.create_task(stop_requested.wait(), name="stop"),
            asyncio.create_task(self._pool.run(), name="workers"),
            asyncio.create_task(self._serve(), name="serve"),
            asyncio.create_task(self.further.run(), name="further-models"),
        }
        tasks |= {asyncio.create_task(work, name="experiments") for work in self._experiments()}
        tasks.add(asyncio.create_task(self._announcements.run(), name="announcements"))
        if self._canary is not None:
            tasks.add(asyncio.create_task(kept_up(self._canary.run, event="canary_failed"), name="canary"))
        finished, unfinished = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in unfinished:
            task.cancel()
        await asyncio.gather(*unfinished, return_exceptions=True)
        stopping = stop_requested.is_set()
        if stopping:
            _log.info("stopping")
        else:
            _log_end(finished)
        grace_seconds = self._settings.shutdown_grace_seconds + _STOPPING_EXTRA_SECONDS
        statuses = await self._pool.stop(grace_seconds=grace_seconds)
        _log.info("stopped", worker_exit_statuses=statuses)
        return 0 if stopping and not any(statuses) else 1

    async def _serve(self) -> None:
        """Keeps the workers on the right bundle. Raises BundleRefused if the settings name a bundle folder that is
        refused."""
        await self._pool.started()
        _log.info(
            "server_listening",
            host=self._settings.host,
            grpc_port=self._grpc_port,
            http_port=self._http_port,
            metrics_port=self._metrics.port,
            workers=self._settings.workers,
        )
        if self._follower is not None:
            await self._follower.run(poll_seconds=self._settings.registry_poll_seconds)
        elif self._settings.bundle_path is not None:
            await serve_folder(
                self._settings.bundle_path, self._pool, check_seconds=self._settings.bundle_timeout_seconds
            )
            await asyncio.Event().wait()

    async def _view(self) -> ServerView:
        view = await self._pool.view()
        if self._canary is None:
            return replace(view, notifications=self._notifier.outcomes)
        return replace(
            view,
            canary=self._canary.status,
            canary_moves=self._moves.counted,
            notifications=self._notifier.outcomes,
        )

    async def _do(self, command: Command) -> AsyncIterator[str]:
        """Executes an operator's command; yields a line for each step done. Raises CommandFailed."""
        if command.name == "shadow":
            names = split_names(self._settings.shadow_model)
            for line in shadow_report(await self._pool.view(), names, share=self._settings.shadow_share):
                yield line
            return
        if command.name in CANARY_COMMANDS:
            if self._canary is None:
                raise CommandFailed(NO_REGISTRY)
            async for done in CanaryCommands(self._canary_registry, self._moves, self._canary).do(command):
                yield done
            return
        if self._follower is None:
            raise CommandFailed("this server serves a bundle folder: no version served before it, and none is refused")
        follower = self._follower
        if command.model not in {None, self._pool.own.name}:
            follower = self.further.follower(str(command.model))
        if command.name == "rollback":
            async for done in follower.roll_back(command.to):
                self._notifier.tell("Tandem: rollback", done)
                yield done
            if self._canary is not None:
                self._canary.look()
        elif command.name == "forget-refusals":
            yield follower.forget_refusal()
        else:
            raise CommandFailed(f"{command.name} is not a command of this server")

    def _experiments(self) -> list[Coroutine[Any, Any, None]]:
        """What keeps the workers on the newest experiments; the last known ones are in force when it returns."""
        settings = self._settings
        source: Source
        work: list[Callable[[], Coroutine[Any, Any, None]]] = []
        if settings.experiments_file is not None:
            source = FileSource(settings.experiments_file)
        elif settings.unleash_url:
            source = definitions = Definitions(origin_of(settings), flag_prefix=settings.unleash_flag_prefix)
            work = [lambda: follow_unleash(settings, definitions)]
        else:
            return []
        follower = ExperimentsFollower(
            source,
            data_dir=settings.data_dir,
            pool=self._pool,
            known=KnownNames(self._registry, settings.policies_file),
            on_table=self._follow_table,
        )
        follower.restore()
        return [kept_up(part) for part in (*work, follower.run)]

    def _follow_table(self, table: ExperimentTable) -> None:
        self.further.serve_also({arm.model for arm in table.arms if arm.model})
        self._announcements.plan(table)

    def _follow_beside(self, track: Track) -> AliasFollower:
        assert self._registry is not None
        return self._make_follower(self._registry.of(track.name), track)

    def _make_follower(self, registry: Registry, track: Track) -> AliasFollower:
        settings, name = self._settings, self._settings.model_name
        return AliasFollower(
            registry=registry,
            cache=BundleCache(
                settings.data_dir,
                model_name=name,
                alias=track.name,
                is_further=track.is_further,
                in_work=self._in_work,
            ),
            barred_versions=BarredVersions(
                settings.data_dir, model_name=name, alias=track.name, is_further=track.is_further
            ),
            pool=self._pool,
            track=track,
            check_seconds=settings.bundle_timeout_seconds,
        )


def _log_end(finished: set[asyncio.Task[Any]]) -> None:
    """Logs why the server ends although no stop was requested."""
    for task in finished:
        error = task.exception()
        if isinstance(error, BundleRefused):
            _log.error("nothing_to_serve", reason=error.reason)
        elif isinstance(error, OperationError):
            _log.error("workers_failed", reason=str(error))
        elif error is not None:
            _log.error("supervisor_failed", exc_info=error)
