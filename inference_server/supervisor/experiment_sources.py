"""The two sources of flag definitions, as the follower asks them: what is offered now, and whether anybody answers."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

from inference_server.core.errors import ExperimentsInvalid
from inference_server.experiments.experiments_file import ExperimentsFile
from inference_server.experiments.table import NOTHING_KNOWN, Known, make_table, plain_document
from tandem.contract.experiments import ExperimentTable
from tandem.ops.watched_files import WatchedFiles

UNLEASH: Final = "unleash"
NOT_YET: Final = "has not answered yet"
_POLL_SECONDS: Final = 1.0
_MAX_DOCUMENT_BYTES: Final = 1 << 20
"""Every worker gets the definitions in one message, which may have four times as much."""


class Offer(Protocol):
    """Definitions that a source offers."""

    @property
    def document(self) -> Mapping[str, Any]:
        """The definitions."""

    def table(self, known: Known = NOTHING_KNOWN) -> ExperimentTable:
        """The table. Raises ExperimentsInvalid."""


class Source(Protocol):
    """Offers definitions."""

    kind: str
    """As TableStatus.source names it."""
    origin: str
    """Where it reads, without secrets: a table on disk from elsewhere is not its table."""
    problem: str
    """Why it does not answer; empty: it does."""
    answered_at_seconds: float
    """When it last answered, seconds since 1970; 0: never."""

    async def wait(self) -> None:
        """Returns when the source may have something new, after a second at the latest."""

    async def newest(self) -> Offer | None:
        """What it offers, if that is new since the last call; None: it is not. Raises ExperimentsInvalid."""


class FileSource:
    """The file of experiments. Its metadata is polled, as that of the policies is."""

    kind = "file"

    def __init__(self, path: Path) -> None:
        self._path = path
        self._watched = WatchedFiles(path)
        self._is_new = True
        self.origin = f"file:{path}"
        self.problem = ""
        self.answered_at_seconds = 0.0

    async def wait(self) -> None:
        """See `Source.wait`."""
        await asyncio.sleep(_POLL_SECONDS)

    async def newest(self) -> Offer | None:
        """See `Source.newest`. A file that is refused is not read again until it changes."""
        # In a thread: PyYAML takes tens of milliseconds for a page, and access to a file system may hang.
        self._is_new |= await asyncio.to_thread(self._watched.changed)
        if not self._is_new:
            self.answered_at_seconds = time.time()
            return None
        self._is_new = False
        offer = await asyncio.to_thread(ExperimentsFile, self._path)
        self.answered_at_seconds = time.time()
        return offer


@dataclass(frozen=True)
class UnleashOffer:
    """Definitions as Unleash returned them."""

    document: Mapping[str, Any]

    def table(self, known: Known = NOTHING_KNOWN) -> ExperimentTable:
        """See `Offer.table`."""
        return make_table(self.document, locate=lambda _, __: "Unleash", known=known)


class Definitions:
    """What the threads of Unleash's client hand to the event loop."""

    kind = UNLEASH

    def __init__(self, origin: str, *, flag_prefix: str) -> None:
        """Only flags with `flag_prefix`, and those that they depend on, are offered."""
        self._flag_prefix = flag_prefix
        self._loop = asyncio.get_running_loop()
        self._changed = asyncio.Event()
        self._newest: str | None = None
        self.origin = origin
        self.problem = NOT_YET
        self.answered_at_seconds = 0.0

    def answered(self, definitions: str | None) -> None:
        """Unleash answered, from any thread. None: its definitions are as before."""
        self._call(self._answered, definitions)

    def failed(self, problem: str) -> None:
        """Unleash did not answer, from any thread."""
        self._call(self._failed, problem)

    async def wait(self) -> None:
        """See `Source.wait`."""
        try:
            async with asyncio.timeout(_POLL_SECONDS):
                await self._changed.wait()
        except TimeoutError:
            return

    async def newest(self) -> Offer | None:
        """See `Source.newest`."""
        self._changed.clear()
        text, self._newest = self._newest, None
        return None if text is None else await asyncio.to_thread(self._read, text)

    def _read(self, text: str) -> UnleashOffer:
        try:
            definitions = json.loads(text)
        except ValueError as error:
            raise ExperimentsInvalid((f"Unleash: its answer is no JSON: {error}",)) from error
        document = plain_document(definitions, wanted=lambda name: name.startswith(self._flag_prefix))
        if len(json.dumps(document)) > _MAX_DOCUMENT_BYTES:
            too_much = f"Unleash: flags {self._flag_prefix}* have more than {_MAX_DOCUMENT_BYTES} bytes"
            raise ExperimentsInvalid((too_much,))
        return UnleashOffer(document)

    def _answered(self, definitions: str | None) -> None:
        self.problem = ""
        self.answered_at_seconds = time.time()
        if definitions is not None:
            self._newest = definitions
        self._changed.set()

    def _failed(self, problem: str) -> None:
        self.problem = problem
        self._changed.set()

    def _call(self, what: Callable[[Any], None], argument: object) -> None:
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(what, argument)
