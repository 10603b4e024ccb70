"""The supervisor's handle on its worker: a child process and the control channel to it."""

from __future__ import annotations

import asyncio
import socket
import sys
from pathlib import Path

import structlog

from inference_server.control import (
    BundleOpened,
    BundleRefused,
    ControlChannel,
    DependencyChanged,
    Listening,
    OpenBundle,
)
from inference_server.errors import BundleRefused as BundleRefusedError
from inference_server.errors import RefusalKind

_log = structlog.get_logger()


class WorkerProcess:
    """One worker. Made by `start`."""

    def __init__(self, process: asyncio.subprocess.Process, channel: ControlChannel) -> None:
        self._process = process
        self._channel = channel
        self._opening: asyncio.Future[BundleOpened] | None = None
        self._listening: asyncio.Future[Listening] = asyncio.get_running_loop().create_future()
        self._reading = asyncio.create_task(self._read(), name="worker-messages")
        self._dependencies: dict[str, bool] = {}

    @classmethod
    async def start(cls) -> WorkerProcess:
        """Starts a worker with this process's environment."""
        ours, theirs = socket.socketpair()
        with theirs:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "inference_server", "worker", "--control-fd", str(theirs.fileno())),
                stdin=asyncio.subprocess.DEVNULL,
                pass_fds=(theirs.fileno(),),
            )
        return cls(process, await ControlChannel.over(ours))

    async def listening(self) -> Listening:
        """Waits until the ports are bound. Waits for ever when the worker ends before: see `wait`."""
        return await self._listening

    async def wait(self) -> int:
        """Waits for the end of the process and returns its exit status."""
        return await self._process.wait()

    async def open_bundle(self, directory: Path, *, registry_version: str, variant: str) -> None:
        """Has the worker open and serve a checked bundle. Raises BundleRefused when it cannot open it."""
        self._opening = asyncio.get_running_loop().create_future()
        message = OpenBundle(directory=str(directory), registry_version=registry_version, variant=variant)
        await self._channel.send(message)
        opened = await self._opening
        _log.info("model_serving", model_version=opened.model_version, registry_version=registry_version)

    async def count_refusal(self, refused: BundleRefusedError, *, registry_version: str) -> None:
        """Has the worker show a refused bundle in its metrics and status."""
        kind, reason = refused.reason_kind, refused.reason
        await self._channel.send(BundleRefused(registry_version=registry_version, reason_kind=kind, reason=reason))

    async def set_dependency(self, dependency: str, *, up: bool) -> None:
        """Has the worker show the state of a dependency, if it has changed."""
        if self._dependencies.get(dependency) != up:
            self._dependencies[dependency] = up
            await self._channel.send(DependencyChanged(dependency=dependency, up=up))

    async def stop(self, *, grace_seconds: float) -> int:
        """Asks the worker to stop, gives it `grace_seconds`, kills it if it has not. Returns its exit status."""
        # The end of the channel is what asks it: a worker cannot miss that, even while it is still starting.
        await self._channel.close()
        try:
            async with asyncio.timeout(grace_seconds):
                return await self._process.wait()
        except TimeoutError:
            _log.error("worker_killed", grace_seconds=grace_seconds)
            self._process.kill()
            return await self._process.wait()
        finally:
            self._reading.cancel()

    async def _read(self) -> None:
        while (message := await self._channel.receive()) is not None:
            if isinstance(message, Listening):
                self._listening.set_result(message)
            elif self._opening is not None and not self._opening.done():
                if isinstance(message, BundleOpened):
                    self._opening.set_result(message)
                elif isinstance(message, BundleRefused):
                    kind = RefusalKind(message.reason_kind)
                    self._opening.set_exception(BundleRefusedError(kind, message.reason))
