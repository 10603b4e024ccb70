"""Messages between supervisor and worker: JSON lines over a Unix socket pair that the worker inherits.

| message             | from       | means                                                              |
| ------------------- | ---------- | ------------------------------------------------------------------ |
| Listen              | supervisor | begin to answer on these ports                                     |
| Listening           | worker     | the ports are bound, calls are answered                            |
| OpenBundle          | supervisor | phase one: open and warm this checked folder, without serving it   |
| BundleReady         | worker     | it is open and warm                                                |
| BundleNotOpened     | worker     | it cannot be opened, and why                                       |
| ServeBundle         | supervisor | phase two: answer with this open bundle from now on                |
| WithdrawModel       | supervisor | a further model answers no more; the own model stands in for it    |
| FurtherModels       | supervisor | the models that shall answer beside the own one, and what is wrong |
| BundleServing       | worker     | every request admitted from now on is answered by this bundle      |
| CloseBundle         | supervisor | this bundle will not be served again                               |
| RefusalsCounted     | supervisor | all refusals so far, for GetServingStatus                          |
| DependencyChanged   | supervisor | a dependency that only the supervisor sees went up or down         |
| BreakerChanged      | supervisor | one of the supervisor's own breakers changed its state             |
| ExperimentsChanged  | supervisor | the table of experiments in force, and where it comes from          |
| CanaryChanged       | supervisor | who is in the canary, and what is said of it                        |
| CanaryCounted       | worker     | what happened to the canary's and its control's users since before |
| StatisticsRequested | supervisor | report the counts                                                  |
| StatisticsReported  | worker     | the counts since the worker's start                                |
| Alive               | worker     | its event loop runs; sent several times a second                   |
| WorkerFailed        | worker     | it is about to end, and why                                        |

The end of the stream is a message too: the worker stops when its supervisor has gone.
"""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final

_MAX_LINE_BYTES: Final = 1 << 22
"""Longest message; a worker's statistics take about 10 KB."""


@dataclass(frozen=True, kw_only=True)
class Listen:
    """Bind these ports, which the supervisor holds for its workers, and answer."""

    grpc_port: int
    http_port: int = 0
    """0: HTTP is not served."""


@dataclass(frozen=True, kw_only=True)
class Listening:
    """The worker answers on these ports."""

    grpc_port: int
    http_port: int = 0
    """0: HTTP is not served."""


@dataclass(frozen=True, kw_only=True)
class OpenBundle:
    """Open and warm a checked bundle."""

    bundle: int
    """The supervisor's number for this opening, the same in all workers."""
    directory: str
    registry_version: str
    """The registry's version number of the bundle; empty without a registry."""


@dataclass(frozen=True, kw_only=True)
class BundleReady:
    """The worker has opened this bundle and could serve it now."""

    bundle: int


@dataclass(frozen=True, kw_only=True)
class BundleNotOpened:
    """The worker cannot open a bundle."""

    bundle: int
    reason_kind: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class ServeBundle:
    """Answer with this bundle. One bundle may serve under several names."""

    bundle: int
    order: int
    """Number of this order, for its reply."""
    variant: str
    """The alias or version number it is served under; empty without a registry."""
    is_further: bool = False
    """Whether it answers beside the server's own model, and not as that."""


@dataclass(frozen=True, kw_only=True)
class BundleServing:
    """The worker answers with this bundle now."""

    order: int
    """Number of the order that this replies to."""
    switched_at_seconds: float
    """When the worker switched, on the monotonic clock that all processes of a machine share."""


@dataclass(frozen=True, kw_only=True)
class WithdrawModel:
    """A further model answers no more."""

    name: str
    """The alias or version number."""


@dataclass(frozen=True, kw_only=True)
class FurtherModels:
    """The models that shall answer beside the server's own, whether they do or not."""

    problems: Mapping[str, str]
    """By alias or version number: why none answers, or why its newest version does not; empty: nothing is wrong."""


@dataclass(frozen=True, kw_only=True)
class CloseBundle:
    """Forget an open bundle."""

    bundle: int


@dataclass(frozen=True, kw_only=True)
class RefusalsCounted:
    """Bundles that the server has refused since its start."""

    by_kind: Mapping[str, int]
    last: str
    bundles: list[dict[str, Any]]
    """The newest refusals, newest first, each as the fields of `statistics.Refusal`."""


@dataclass(frozen=True, kw_only=True)
class DependencyChanged:
    """A dependency went up or down."""

    dependency: str
    up: bool
    problem: str = ""
    """Why it is down, or what is wrong although it is up; empty: nothing is."""


@dataclass(frozen=True, kw_only=True)
class BreakerChanged:
    """A circuit breaker of the supervisor changed its state."""

    name: str
    state: str


@dataclass(frozen=True, kw_only=True)
class ExperimentsChanged:
    """Experiments are in force, or were confirmed, or were refused."""

    document: Mapping[str, Any] | None
    """Definitions of all flags, as `experiments.table` reads them; None: those in force stay."""
    status: Mapping[str, Any]
    """The fields of `experiments.slot.TableStatus`."""


@dataclass(frozen=True, kw_only=True)
class CanaryChanged:
    """A canary begins, takes another share of the users, or ends."""

    experiment: str
    """Its name in answers; empty: there is none, and nothing is counted."""
    model: str
    """The further model that answers for it."""
    percent: float
    """Share of the users that it answers; 0: nobody."""
    status: Mapping[str, Any]
    """The fields of `core.canary_status.CanaryStatus`."""


@dataclass(frozen=True, kw_only=True)
class CanaryCounted:
    """What a worker has counted of a canary since it last said so."""

    experiment: str
    all_answers: int
    """Answers of the worker, to whomever."""
    counts: Mapping[str, Any]
    """As `CanaryCounts.take` returns them."""


@dataclass(frozen=True, kw_only=True)
class StatisticsRequested:
    """Report the statistics."""

    request: int


@dataclass(frozen=True, kw_only=True)
class StatisticsReported:
    """The statistics, as `snapshot.to_plain` writes them."""

    request: int
    statistics: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Alive:
    """The worker's event loop runs."""


@dataclass(frozen=True, kw_only=True)
class WorkerFailed:
    """Why the worker ends."""

    reason: str


Message = (
    Listen
    | Listening
    | OpenBundle
    | BundleReady
    | BundleNotOpened
    | ServeBundle
    | BundleServing
    | WithdrawModel
    | FurtherModels
    | CloseBundle
    | RefusalsCounted
    | DependencyChanged
    | BreakerChanged
    | ExperimentsChanged
    | CanaryChanged
    | CanaryCounted
    | StatisticsRequested
    | StatisticsReported
    | Alive
    | WorkerFailed
)

_TYPES: Final[dict[str, type[Message]]] = {cls.__name__: cls for cls in Message.__args__}


def to_line(message: Message) -> bytes:
    """The line that carries a message."""
    return json.dumps({"type": type(message).__name__, **asdict(message)}).encode() + b"\n"


def from_line(line: bytes) -> Message:
    """The message of a line."""
    fields = json.loads(line)
    return _TYPES[fields.pop("type")](**fields)


class ControlChannel:
    """One end of the channel."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def over(cls, end: socket.socket) -> ControlChannel:
        """Takes over one end of a socket pair."""
        reader, writer = await asyncio.open_unix_connection(sock=end, limit=_MAX_LINE_BYTES)
        return cls(reader, writer)

    def post(self, message: Message) -> None:
        """Sends a message without waiting; messages arrive in the order of sending. Drops it if the other end has gone.

        The caller learns of a closed channel from `receive`.
        """
        if not self._writer.is_closing():
            self._writer.write(to_line(message))

    async def send(self, message: Message) -> None:
        """Sends a message and waits while the other end reads too slowly."""
        self.post(message)
        try:
            await self._writer.drain()
        except ConnectionError:
            return

    async def receive(self) -> Message | None:
        """The next message; None once the other end has gone."""
        try:
            line = await self._reader.readline()
        except ConnectionError:
            return None
        return from_line(line) if line.endswith(b"\n") else None

    async def close(self) -> None:
        """Closes this end."""
        self._writer.close()
        try:
            await self._writer.wait_closed()
        except ConnectionError:
            return
