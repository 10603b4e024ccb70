"""Where impressions go from a worker, and the impression log: one line of JSON for each answer, in a file.

The stream of impressions (`events/impression_stream`) is the way to reports and training; the log needs neither a store
nor feature_sync.

A separate thread writes the lines after the answer was sent. A slow or full disk loses lines, which are counted, and
never delays or fails a request. Lines are not synced to disk one by one: a crash of the machine, but not of the
process, loses the last seconds. The file holds user ids and the items they were shown, which is personal data: it is
off by default.

This is not `logging`: a handler of the standard library formats and writes in the caller's thread, and prints a stack
trace when the disk is full.
"""

from __future__ import annotations

import json
import os
import queue
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final, Protocol

import structlog

from tandem.contract.impressions import Impression

_log = structlog.get_logger()

NUM_KEPT: Final = 5
"""Rotated files that are kept: `<name>.1` is the newest."""

_MAX_WAITING: Final = 1024
"""Impressions that may wait for the disk."""


class ImpressionSink(Protocol):
    """Takes impressions after their answers were made."""

    def write(self, impressions: Sequence[Impression], /) -> None:
        """Takes impressions. Never blocks and raises nothing."""
        ...


def to_line(impression: Impression) -> bytes:
    """One line of JSON with its newline. Raises ValueError for what JSON cannot hold."""
    return json.dumps(impression.to_dict(), separators=(",", ":"), allow_nan=False).encode() + b"\n"


class ImpressionLog:
    """Appends impressions to a file of this process's own."""

    def __init__(self, path: Path, *, max_bytes: int) -> None:
        """The file is opened for the first line, so that the server starts even if the folder is missing."""
        self._file = _RotatedFile(path, max_bytes=max_bytes)
        self._queue: queue.Queue[Sequence[Impression] | None] = queue.Queue(_MAX_WAITING)
        self._num_not_queued = 0
        self._num_not_written = 0
        self._failing = False
        self._given_up = False
        # A daemon, so that a hanging disk cannot delay the end of the process.
        self._thread = threading.Thread(target=self._run, name="impressions", daemon=True)
        self._thread.start()

    @property
    def num_dropped(self) -> int:
        """Impressions that were not written."""
        return self._num_not_queued + self._num_not_written

    def write(self, lines: Sequence[Impression]) -> None:
        """Queues the impressions for writing. Never blocks and raises nothing."""
        try:
            self._queue.put_nowait(lines)
        except queue.Full:
            self._num_not_queued += len(lines)

    def close(self, *, timeout_seconds: float) -> None:
        """Writes the queued impressions, for at most about `timeout_seconds`. Blocks. Nothing is written afterwards."""
        give_up_at = time.monotonic() + timeout_seconds
        with suppress(queue.Full):
            self._queue.put(None, timeout=timeout_seconds)
        self._thread.join(max(0.0, give_up_at - time.monotonic()))
        self._given_up = True

    def _run(self) -> None:
        while not self._given_up and (impressions := self._queue.get()) is not None:
            try:
                self._file.append(b"".join(to_line(impression) for impression in impressions))
            except Exception as error:  # a full disk, or a value that JSON cannot hold: the thread must go on
                self._num_not_written += len(impressions)
                if not self._failing:
                    _log.error("impressions_not_written", path=str(self._file.path), reason=str(error))
                self._failing = True
            else:
                if self._failing:
                    _log.info("impressions_written_again", num_dropped=self.num_dropped)
                self._failing = False
        self._file.close()


def worker_path(path: Path, worker: int) -> Path:
    """The file of one worker: lines that two processes write to one file could mix."""
    return path.with_name(f"{path.name}.worker-{worker}")


class _RotatedFile:
    """A file to which whole lines are appended, and which is rotated at its maximum size."""

    def __init__(self, path: Path, *, max_bytes: int) -> None:
        self.path = path
        self._max_bytes = max_bytes
        self._descriptor: int | None = None
        self._num_bytes = 0

    def append(self, lines: bytes) -> None:
        """Appends all of the text or nothing. Raises OSError."""
        if self._descriptor is not None and self._num_bytes + len(lines) > self._max_bytes and self._num_bytes:
            self.close()
            self._rotate()
        try:
            descriptor = self._opened()
            written = 0
            while written < len(lines):
                written += os.write(descriptor, lines[written:])
        except OSError:
            # A partial line would corrupt the next line. A device cannot be truncated, and keeps no lines.
            if self._descriptor is not None:
                with suppress(OSError):
                    os.ftruncate(self._descriptor, self._num_bytes)
            self.close()
            raise
        self._num_bytes += len(lines)

    def close(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def _opened(self) -> int:
        if self._descriptor is None:
            # Readable only by the owner, because it holds personal data.
            self._descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
            self._num_bytes = os.fstat(self._descriptor).st_size
            if self._num_bytes and os.pread(self._descriptor, 1, self._num_bytes - 1) != b"\n":
                self._num_bytes += os.write(
                    self._descriptor, b"\n"
                )  # a process was killed while it wrote its last line
        return self._descriptor

    def _rotate(self) -> None:
        for number in range(NUM_KEPT - 1, 0, -1):
            with suppress(FileNotFoundError):
                self._numbered(number).rename(self._numbered(number + 1))
        self.path.rename(self._numbered(1))

    def _numbered(self, number: int) -> Path:
        return self.path.with_name(f"{self.path.name}.{number}")
