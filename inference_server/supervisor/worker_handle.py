"""The supervisor's handle on one worker: a process and the control channel to it."""

from __future__ import annotations

import asyncio
import itertools
import socket
import time
from collections.abc import Callable
from typing import Final, TypeVar

import structlog

from inference_server.control.messages import (
    BundleNotOpened,
    BundleReady,
    BundleServing,
    CanaryCounted,
    CloseBundle,
    ControlChannel,
    Listen,
    Listening,
    Message,
    OpenBundle,
    ServeBundle,
    StatisticsReported,
    StatisticsRequested,
    WithdrawModel,
    WorkerFailed,
)
from inference_server.control.snapshot import Plain
from inference_server.core.errors import BundleRefused, RefusalKind, WorkerEnded
from inference_server.supervisor.checked_bundle import CheckedBundle
from inference_server.supervisor.fork_server_handle import ForkedProcess, ForkServerHandle
from inference_server.supervisor.track import Track
from inference_server.telemetry.statistics import WorkerIdentity

_log = structlog.get_logger()

_Reply = TypeVar("_Reply", bound=Message)

_LISTEN_SECONDS: Final = 60.0
_OPEN_SECONDS: Final = 300.0
_SWITCH_SECONDS: Final = 10.0
"""Time limits for the three orders. A worker that exceeds one is taken to hang, and is killed."""


class WorkerHandle:
    """One worker. Made by `start`."""

    def __init__(
        self,
        identity: WorkerIdentity,
        process: ForkedProcess,
        channel: ControlChannel,
        on_counted: Callable[[CanaryCounted], None],
    ) -> None:
        self.identity: Final = identity
        self.pid: Final = process.pid
        self.failure = ""
        """The reason that the worker gave for its end; empty if it gave none."""
        self.last_statistics: Plain = {}
        """Its most recent report."""
        self.last_sign_at = time.monotonic()
        """When the worker last sent a message, and so its event loop ran, on the monotonic clock."""
        self._process = process
        self._channel = channel
        self._on_counted = on_counted
        self._bundles: set[CheckedBundle] = set()
        self._openings: dict[CheckedBundle, asyncio.Task[None]] = {}
        self._served: dict[Track, CheckedBundle] = {}
        self._requests = itertools.count(1)
        self._awaited: dict[tuple[type, int], asyncio.Future[Message]] = {}
        self._gone = False
        self._reading = asyncio.create_task(self._read(), name=f"worker-{identity.worker}-messages")

    @classmethod
    async def start(
        cls,
        identity: WorkerIdentity,
        fork_server: ForkServerHandle,
        *,
        on_counted: Callable[[CanaryCounted], None] = lambda _: None,
    ) -> WorkerHandle:
        """Starts a worker. `on_counted` is told what it counts of a canary. Raises WorkerEnded."""
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                process = await fork_server.fork(identity, theirs)
            except BaseException:
                ours.close()
                raise
        return cls(identity, process, await ControlChannel.over(ours), on_counted)

    def has_open(self, bundle: CheckedBundle) -> bool:
        """Whether the worker could serve a bundle at once."""
        return bundle in self._bundles

    async def wait(self) -> int:
        """Waits until the process ends. Returns its exit status."""
        return await self._process.wait()

    async def listen(self, *, grpc_port: int, http_port: int) -> Listening:
        """Makes the worker answer on the shared ports. Raises WorkerEnded."""
        return await self._ask(Listen(grpc_port=grpc_port, http_port=http_port), Listening, seconds=_LISTEN_SECONDS)

    async def open(self, bundle: CheckedBundle) -> None:
        """Makes the worker open and warm a bundle. Raises BundleRefused if it cannot, WorkerEnded if it has ended.

        Those who want the same bundle open at the same time wait for one opening.
        """
        opening = self._openings.get(bundle)
        if opening is None:
            opening = self._openings[bundle] = asyncio.create_task(self._open(bundle), name="opening")
            opening.add_done_callback(lambda task: self._opened(bundle, task))
        await asyncio.shield(opening)

    def _opened(self, bundle: CheckedBundle, opening: asyncio.Task[None]) -> None:
        self._openings.pop(bundle, None)
        if not opening.cancelled():
            opening.exception()  # retrieved here, because nobody may wait any longer

    async def _open(self, bundle: CheckedBundle) -> None:
        message = OpenBundle(
            bundle=bundle.number,
            directory=str(bundle.directory),
            registry_version=bundle.version.number,
        )
        await self._ask(message, BundleReady, bundle.number, seconds=_OPEN_SECONDS)
        self._bundles.add(bundle)

    async def serve(self, bundle: CheckedBundle, track: Track) -> float:
        """Makes the worker answer with an open bundle under the name of a track. Returns the monotonic time of the
        switch. Raises WorkerEnded.

        The order is sent before the first suspension, so that orders arrive in the order in which they were decided.
        """
        order = next(self._requests)
        message = ServeBundle(bundle=bundle.number, order=order, variant=track.name, is_further=track.is_further)
        reply = await self._ask(message, BundleServing, order, seconds=_SWITCH_SECONDS)
        self._served[track] = bundle
        return reply.switched_at_seconds

    def serves(self, track: Track) -> bool:
        """Whether the worker answers with what serves under a track."""
        return self._served.get(track) is track.serving

    def withdraw(self, track: Track) -> None:
        """Makes the worker answer no more under a further model's name."""
        self._served.pop(track, None)
        self.tell(WithdrawModel(name=track.name))

    def close_bundle(self, bundle: CheckedBundle) -> None:
        """Makes the worker close a bundle, if it has the bundle open or opens it now."""
        if (opening := self._openings.get(bundle)) is not None:
            opening.add_done_callback(lambda _: self.close_bundle(bundle))
        elif bundle in self._bundles:
            self._bundles.discard(bundle)
            self.tell(CloseBundle(bundle=bundle.number))

    def tell(self, message: Message) -> None:
        """Sends a message that has no reply."""
        self._channel.post(message)

    async def statistics(self, *, patience_seconds: float) -> bool:
        """Updates `last_statistics`. Returns False, and leaves them unchanged, if the worker does not answer in
        time."""
        number = next(self._requests)
        try:
            async with asyncio.timeout(patience_seconds):
                reply = await self._reply(StatisticsRequested(request=number), StatisticsReported, number)
        except (TimeoutError, WorkerEnded):
            return False
        self.last_statistics = reply.statistics
        return True

    async def stop(self, *, grace_seconds: float) -> int:
        """Asks the worker to stop, and kills it after `grace_seconds`. Returns its exit status."""
        # Closing the channel is the request: a worker cannot miss it, even while it is still starting.
        await self._channel.close()
        try:
            async with asyncio.timeout(grace_seconds):
                return await self._process.wait()
        except TimeoutError:
            _log.error("worker_killed", worker=self.identity.worker, grace_seconds=grace_seconds)
            self.kill()
            return await self._process.wait()
        finally:
            self._reading.cancel()

    async def end(self) -> int:
        """Waits until the process ends, and closes the channel. Returns its exit status."""
        status = await self._process.wait()
        await self._reading
        await self._channel.close()
        return status

    def kill(self) -> None:
        """Ends the process at once."""
        self._process.kill()

    async def _ask(self, message: Message, reply: type[_Reply], number: int = 0, *, seconds: float) -> _Reply:
        """Sends a message and waits for its reply. Kills the worker and raises WorkerEnded if there is no reply in
        `seconds`."""
        try:
            async with asyncio.timeout(seconds):
                return await self._reply(message, reply, number)
        except TimeoutError as error:
            doing = type(message).__name__
            _log.error("worker_hangs", worker=self.identity.worker, doing=doing, seconds=seconds)
            self.kill()
            raise WorkerEnded(f"worker {self.identity.worker} did not do {doing} in {seconds:.0f} s") from error

    async def _reply(self, message: Message, reply: type[_Reply], number: int) -> _Reply:
        if self._gone:
            raise WorkerEnded(f"worker {self.identity.worker} has ended")
        awaited: asyncio.Future[Message] = asyncio.get_running_loop().create_future()
        self._awaited[reply, number] = awaited
        self._channel.post(message)
        try:
            result = await awaited
        finally:
            self._awaited.pop((reply, number), None)
        assert isinstance(result, reply)
        return result

    async def _read(self) -> None:
        """Hands every message to the caller that waits for it; at the end of the stream, raises WorkerEnded in every
        caller."""
        while (message := await self._channel.receive()) is not None:
            self.last_sign_at = time.monotonic()
            if isinstance(message, WorkerFailed):
                self.failure = message.reason
                self._end_waiting()
            elif isinstance(message, BundleNotOpened):
                kind = RefusalKind(message.reason_kind)
                self._settle(BundleReady, message.bundle, BundleRefused(kind, message.reason))
            elif isinstance(message, CanaryCounted):
                self._on_counted(message)
            elif isinstance(message, Listening):
                self._settle(Listening, 0, message)
            elif isinstance(message, StatisticsReported):
                self._settle(StatisticsReported, message.request, message)
            elif isinstance(message, BundleReady):
                self._settle(BundleReady, message.bundle, message)
            elif isinstance(message, BundleServing):
                self._settle(BundleServing, message.order, message)
        self._end_waiting()

    def _end_waiting(self) -> None:
        self._gone = True
        reason = f": {self.failure}" if self.failure else ""
        for reply, number in list(self._awaited):
            self._settle(reply, number, WorkerEnded(f"worker {self.identity.worker} has ended{reason}"))

    def _settle(self, reply: type, number: int, result: Message | Exception) -> None:
        awaited = self._awaited.get((reply, number))
        if awaited is None or awaited.done():
            return
        if isinstance(result, Exception):
            awaited.set_exception(result)
        else:
            awaited.set_result(result)
