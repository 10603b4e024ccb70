"""The machine: its description, which process runs on which core, and the memory of a process."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

SERVED_CORE: Final = 0
"""The core of the program under test. Load, store and probe run on the remaining cores."""

_LIBRARIES: Final = (
    "grpcio",
    "faiss-cpu",
    "onnxruntime",
    "numpy",
    "redis",
    "uvloop",
    "fastapi",
    "uvicorn",
    "mlflow-skinny",
)


def describe_machine() -> dict[str, Any]:
    """Hardware, kernel and versions of libraries, which a reader needs to judge the figures."""
    names = re.findall(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    memory = re.search(r"MemTotal:\s+(\d+) kB", Path("/proc/meminfo").read_text())
    assert memory is not None
    return {
        "processor": names[0] if names else platform.machine(),
        "cores": os.cpu_count(),
        "memory_gigabytes": round(int(memory[1]) / 1024**2, 1),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "libraries": {name: version(name) for name in _LIBRARIES},
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    }


def load_cores() -> set[int]:
    """Every core except the served one; on a machine with one core, that core."""
    cores = set(range(os.cpu_count() or 1))
    return cores - {SERVED_CORE} or cores


@contextmanager
def on_served_core() -> Iterator[None]:
    """Processes started inside the block run on the served core, and stay there."""
    own_cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {SERVED_CORE})
    try:
        yield
    finally:
        os.sched_setaffinity(0, own_cores)


def move(pid: int, cores: set[int]) -> None:
    """Moves all threads of a running process to `cores`. Its later children inherit them; its present children stay."""
    for thread in Path(f"/proc/{pid}/task").iterdir():
        os.sched_setaffinity(int(thread.name), cores)


def children(pid: int) -> list[int]:
    """Ids of a process's children that still run."""
    found = []
    for thread in Path(f"/proc/{pid}/task").iterdir():
        with suppress(FileNotFoundError):  # a thread that ended meanwhile
            found += [int(child) for child in (thread / "children").read_text().split()]
    return found


def command_line(pid: int) -> list[str]:
    """A process's program and arguments; empty once it has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().split("\0")[:-1]
    except (FileNotFoundError, ProcessLookupError):
        return []


def fork_servers(supervisor: int) -> list[int]:
    """Ids of the processes that a supervisor's workers are forked from; normally a single process."""
    return [pid for pid in children(supervisor) if "fork-server" in command_line(pid)]


def resident_megabytes(pid: int) -> float:
    """Resident memory of a process in MB; 0 once it has ended."""
    try:
        found = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    except (FileNotFoundError, ProcessLookupError):
        return 0.0
    return int(found[1]) / 1024 if found else 0.0
