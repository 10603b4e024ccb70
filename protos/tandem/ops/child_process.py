"""Work on data that somebody else made, in a child process with limits of memory and time.

A bundle may unpack to any size, hang an engine, or crash it. Only the child then ends, and its parent goes on with a
reason. The parent calls `ask_child`; the child calls `limit_memory` before it opens anything, and `reply` at the end.
"""

from __future__ import annotations

import asyncio
import json
import resource
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

_BASE_BYTES: Final = 1 << 30
_BYTES_PER_STORED_BYTE: Final = 4
"""Arrays are checked in copies of other types, and an index is read beside the vectors."""


class ChildFailed(Exception):
    """The child crashed, was stopped at its time limit, or ended without a result. The message says which."""


async def ask_child(
    module: str, arguments: Sequence[str] = (), *, request: Mapping[str, Any] | None = None, seconds: float
) -> dict[str, Any]:
    """Runs `python -m module arguments` and returns the JSON object in the last line of its output.

    The child reads `request` as JSON from its standard input: command lines are visible to every user of the machine.
    Raises ChildFailed. The child is killed when its time is over and when the caller is cancelled.
    """
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", module, *arguments),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(seconds):
            output, _ = await process.communicate(json.dumps(request or {}).encode())
    except TimeoutError as error:
        raise ChildFailed(f"it did not end within {seconds:g} s") from error
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    try:
        result = json.loads(output.decode().rstrip("\n").rpartition("\n")[2])
    except ValueError as error:
        raise ChildFailed(f"it ended with exit status {process.returncode} and without a result") from error
    if not isinstance(result, dict):
        raise ChildFailed("its result is not an object")
    return result


def read_request() -> dict[str, Any]:
    """The request of the parent, in the child."""
    request: dict[str, Any] = json.load(sys.stdin)
    return request


def reply(result: Mapping[str, Any]) -> None:
    """Sends the child's result."""
    print(json.dumps(result), flush=True)


def memory_for(*folders: Path, megabytes: int) -> int:
    """The limit for the check of these folders in bytes: `megabytes`, or for 0 one that every sound bundle keeps: 1 GiB
    and four times the size of the files."""
    if megabytes:
        return megabytes << 20
    stored = sum(path.stat().st_size for folder in folders for path in folder.rglob("*") if path.is_file())
    return _BASE_BYTES + _BYTES_PER_STORED_BYTE * stored


def limit_memory(num_bytes: int) -> None:
    """Bounds the memory that this process may allocate; beyond it, allocations fail. Mapped files do not count. A crash
    leaves no core file."""
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    limit = num_bytes if hard == resource.RLIM_INFINITY else min(num_bytes, hard)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
