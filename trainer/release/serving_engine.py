"""Runs the serving engine's check in a process of its own: the trainer never imports the server, and a bundle that
crashes the engine does not crash the training run."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

from tandem.contract.errors import ReplayError
from tandem.contract.replayed import LoggedRequest, ReplayedOrders, read_orders, write_requests
from tandem.contract.served import Refused, Served, parse_check_result
from trainer.core.errors import GateError

_TIMEOUT_SECONDS: Final = 1_800.0
_CHECK_FAILED: Final = "check_failed"
_NUM_LINES_SHOWN: Final = 5


def ask_serving_engine(
    bundle: Path, held_out: Path, *, against: Path | None, num_shown: int, output: Path
) -> Served | Refused:
    """Runs `python -m inference_server check`, which has a bundle, and the bundle `against` if given, answer the users
    of the file `held_out`.

    A bundle that crashes or stalls the check is refused. Raises GateError if the check itself cannot run: the server is
    not installed here, or its settings are wrong.
    """
    arguments = ["check", str(bundle), "--held-out", str(held_out), "-k", str(num_shown), "--output", str(output)]
    arguments += [] if against is None else ["--against", str(against)]
    try:
        done = _run(arguments)
    except subprocess.TimeoutExpired:
        return Refused(_CHECK_FAILED, f"the check did not finish within {_TIMEOUT_SECONDS:.0f} s")
    if done.returncode < 0:
        return Refused(_CHECK_FAILED, f"the bundle crashed the serving engine: signal {-done.returncode}")
    try:
        return parse_check_result(output.read_text())
    except (OSError, ValueError) as error:
        raise GateError(_failed(done, error)) from error


def order_requests(
    bundle: Path, requests: Iterable[LoggedRequest], *, policies: Path | None, scenario: str, scratch: Path
) -> ReplayedOrders:
    """Runs `python -m inference_server replay-requests`, which has a bundle and a policy order the pools of logged
    requests. `scratch` is an empty folder.

    Raises GateError if the engine cannot be run, or refuses the bundle or the policies; the message says why.
    """
    asked, output = scratch / "requests.jsonl", scratch / "orders.npz"
    write_requests(asked, requests)
    arguments = ["replay-requests", str(bundle), "--requests", str(asked), "--output", str(output)]
    arguments += [] if policies is None else ["--policies", str(policies)]
    arguments += ["--scenario", scenario] if scenario else []
    try:
        done = _run(arguments)
        return read_orders(output)
    except subprocess.TimeoutExpired:
        raise GateError(f"the serving engine did not finish within {_TIMEOUT_SECONDS:.0f} s") from None
    except (OSError, ReplayError) as error:
        raise GateError(_failed(done, error)) from error


def _run(arguments: Sequence[str]) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "inference_server", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=_TIMEOUT_SECONDS)


def _failed(done: subprocess.CompletedProcess[str], error: Exception) -> str:
    last_lines = " / ".join(done.stderr.strip().splitlines()[-_NUM_LINES_SHOWN:])
    return f"the serving engine could not be run, exit status {done.returncode}: {last_lines or error}"
