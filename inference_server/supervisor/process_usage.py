"""What the kernel knows of a worker process. Read from outside, so that it shows also of one that hangs."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_PAGE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")
_TICKS_PER_SECOND: Final = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, kw_only=True)
class ProcessUsage:
    """Resources of one process now."""

    resident_memory_bytes: int
    """Physical memory, with what it shares with others counted in full."""
    cpu_seconds: float
    """Processor time since its start."""
    num_threads: int
    open_fds: int


def usage(pid: int) -> ProcessUsage | None:
    """What a process uses; None when there is no such process any more."""
    process = Path("/proc", str(pid))
    try:
        # The name, in parentheses, may hold spaces; field 3 follows it.
        fields = (process / "stat").read_text().rpartition(")")[2].split()
        open_fds = len(os.listdir(process / "fd"))  # noqa: PTH208 - only the number is wanted
    except OSError:
        return None
    return ProcessUsage(
        resident_memory_bytes=int(fields[21]) * _PAGE_BYTES,
        cpu_seconds=(int(fields[11]) + int(fields[12])) / _TICKS_PER_SECOND,
        num_threads=int(fields[17]),
        open_fds=open_fds,
    )
