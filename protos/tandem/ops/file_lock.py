"""Locks between processes: an advisory lock on a file, which ends with the process that holds it, however it ends."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

_POLL_SECONDS: Final = 0.1


class LockHeld(Exception):
    """Another process held the lock for longer than the caller would wait."""


@contextmanager
def file_lock(
    path: Path, *, wait_seconds: float | None = None, on_wait: Callable[[], None] = lambda: None
) -> Iterator[None]:
    """Holds the lock that `path` stands for; the file is created for it, and removed by whoever lets go of it.

    While another process holds the lock, waits at most `wait_seconds` (None: without limit), after one call of
    `on_wait`. Raises LockHeld after that time, and OSError if the file cannot be created or locked.
    """
    give_up_at = None if wait_seconds is None else time.monotonic() + wait_seconds
    waited = False
    while (descriptor := _locked(path)) is None:
        if give_up_at is not None and time.monotonic() >= give_up_at:
            raise LockHeld(f"{path}: another process has held this lock for more than {wait_seconds:g} s")
        if not waited:
            waited = True
            on_wait()
        time.sleep(_POLL_SECONDS)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)  # before the lock ends: whoever waits for the removed file looks again
        os.close(descriptor)


@contextmanager
def folder_lock(folder: Path) -> Iterator[None]:
    """Holds the lock of a folder, without a file for it, in folders that other programs read. Waits without limit.

    Raises OSError if the folder cannot be opened.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _locked(path: Path) -> int | None:
    """An open descriptor that holds the lock; None while another process holds it."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if _is_file_at(path, descriptor):
            return descriptor
    except BlockingIOError:
        pass
    except BaseException:
        os.close(descriptor)
        raise
    os.close(descriptor)
    return None


def _is_file_at(path: Path, descriptor: int) -> bool:
    """False if the file was removed, or replaced, after it was opened."""
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False
