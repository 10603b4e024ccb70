"""`python -m tests.fuzz`: the full-size runs. Exit status 1 if a call ended as a fault of the server."""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
from collections import defaultdict
from pathlib import Path

from tests.fuzz.grpc_run import Outcome, fuzz
from tests.fuzz.http_run import HttpOutcome, fuzz_http
from tests.fuzz.outcome import fuzzed_server


async def _run(num_messages: int, num_requests: int, seed: int) -> tuple[Outcome, HttpOutcome]:
    with tempfile.TemporaryDirectory(prefix="tandem-fuzz-") as name:
        async with fuzzed_server(Path(name)) as server:
            outcome = await fuzz(
                f"127.0.0.1:{server.grpc_port}",
                num_messages=num_messages,
                seed=seed,
                server_pid=server.process.pid,
            )
            http = await fuzz_http(
                server.http_port, num_requests=num_requests, seed=seed, server_pid=server.process.pid
            )
            log_bytes = sum(len(str(line)) for line in server.logs) + sum(map(len, server.unparsed))
            print(f"log: {len(server.logs)} lines, {log_bytes} bytes, {len(server.unparsed)} lines not JSON")
            return outcome, http


def main() -> int:
    """Runs, prints what came, and returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description="Fuzz the gRPC and HTTP servers.")
    parser.add_argument("--messages", type=int, default=500_000)
    parser.add_argument("--requests", type=int, default=50_000)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    outcome, http = asyncio.run(_run(arguments.messages, arguments.requests, arguments.seed))
    by_method: dict[str, dict[str, int]] = defaultdict(dict)
    for (method, code), count in sorted(outcome.codes.items()):
        by_method[method][code] = count
    for method, codes in by_method.items():
        print(f"{method}: {codes}")
    print(f"{outcome.num_messages} messages in {outcome.seconds:.0f} s")
    print("memory in MiB:", [size >> 20 for size in outcome.resident_bytes])
    print(f"faults: {len(outcome.faults)}", *outcome.faults, sep="\n")
    print(f"HTTP: {http.num_requests} requests in {http.seconds:.0f} s: {dict(sorted(http.statuses.items()))}")
    print("memory in MiB:", [size >> 20 for size in http.resident_bytes])
    print(f"faults: {len(http.faults)}", *http.faults, sep="\n")
    return int(bool(outcome.faults or http.faults))


if __name__ == "__main__":
    sys.exit(main())
