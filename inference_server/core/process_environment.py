"""Environment variables that libraries read once, when they are imported: a process sets them before it imports one."""

from __future__ import annotations

import os
from typing import Final

GRPC_EXPERIMENTS: Final = "-event_engine_listener"
"""gRPC's newer listener hands each event from thread to thread: 17 switches a request instead of 12, and a tenth less
throughput of a core (docs/decisions/0051-threads-of-grpc.md)."""

_ONE_THREAD: Final = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}


def limit_blas_threads() -> None:
    """Gives each matrix product one thread: batches are small, and workers share the cores between them. Call it before
    numpy is imported."""
    os.environ.update(_ONE_THREAD)


def set_grpc_defaults() -> None:
    """Switches gRPC's newer listener off, unless GRPC_EXPERIMENTS is set, and the log lines of gRPC's core, unless
    GRPC_VERBOSITY is set: everybody who can connect causes them, and they are not JSON. Call it before gRPC starts."""
    os.environ.setdefault("GRPC_EXPERIMENTS", GRPC_EXPERIMENTS)
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
