"""`fork-server`: the process that `serve` starts and forks its workers from. Not for people."""

from __future__ import annotations

import argparse
import socket
from typing import TYPE_CHECKING

import structlog

from inference_server.core.errors import OperationError
from inference_server.core.process_environment import limit_blas_threads, set_grpc_defaults
from inference_server.core.settings import Settings
from tandem.ops.arguments import whole_number

if TYPE_CHECKING:
    from inference_server.telemetry.statistics import WorkerIdentity

SUMMARY = "internal: what `serve` forks its workers from"
PROCESS = "worker"  # of the lines that workers write; the fork server itself writes none


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds what the command takes."""
    parser.description = "Forks workers for a supervisor. Not to be started by hand: use `serve`."
    parser.add_argument(
        "--control-fd", type=whole_number(0), required=True, metavar="FD", help="socket to the supervisor"
    )


def run(options: argparse.Namespace, settings: Settings) -> int:
    """Forks workers until the supervisor closes its end of the socket."""
    limit_blas_threads()
    set_grpc_defaults()
    import uvloop

    from inference_server.worker.fork_server import run_fork_server
    from inference_server.worker.worker import run_worker

    def run_one_worker(identity: WorkerIdentity, control: socket.socket) -> int:
        try:
            uvloop.run(run_worker(settings, identity, control))
        except OperationError as error:
            structlog.get_logger().error("worker_failed", reason=str(error))
            return 1
        except Exception:  # logged as one line of JSON, like everything else
            structlog.get_logger().exception("worker_failed")
            return 1
        return 0

    run_fork_server(socket.socket(fileno=options.control_fd), run_one_worker)
    return 0
