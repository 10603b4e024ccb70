"""Several workers behind one port: shared callers, restarts, swaps together, metrics of all."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest

from inference_server.core.errors import PortUnavailable
from inference_server.supervisor.held_ports import hold_port
from tandem.contract.bundle import Bundle
from tests.support.serving import (
    PATIENCE_SECONDS,
    Connection,
    MlflowRegistry,
    Server,
    serve,
    server_environment,
    wait_until,
)

pytestmark = pytest.mark.process

NO_STORE = "redis://127.0.0.1:1/0"
ALIAS = "champion"


@asynccontextmanager
async def connections_to_all(server: Server, num_workers: int) -> AsyncIterator[dict[int, Connection]]:
    """One connection to each worker."""
    async with AsyncExitStack() as stack:
        found: dict[int, Connection] = {}

        async def another() -> bool:
            connection = await stack.enter_async_context(server.connection())
            found.setdefault(connection.worker, connection)
            return len(found) == num_workers

        await wait_until(another, "a connection to every worker")
        yield found


async def value_of(server: Server, metric: str) -> float:
    found = re.search(rf"^{re.escape(metric)} (\S+)$", await server.metrics(), re.MULTILINE)
    return float(found[1]) if found else float("nan")


async def test_three_workers_answer_and_are_counted_together(tmp_path: Path, first: Bundle) -> None:
    async with serve(tmp_path, bundle_path=first.directory, store_url=NO_STORE, workers=3) as server:
        async with connections_to_all(server, 3) as workers:
            assert set(workers) == {1, 2, 3}
            for connection in workers.values():
                for _ in range(4):
                    assert (await connection.recommend()).model_version == "one"
        text = await server.metrics()
        assert 'tandem_requests_total{code="OK"} 12.0' in text
        assert "tandem_request_seconds_count 12.0" in text
        assert 'tandem_stage_seconds_count{stage="admit"} 12.0' in text
        assert 'tandem_answers_total{source="POPULAR"} 12.0' in text
        assert "tandem_bundle_swaps_total 1.0" in text
        for worker in (1, 2, 3):
            assert f'tandem_worker_up{{worker="{worker}"}} 1.0' in text
            assert f'tandem_worker_resident_memory_bytes{{worker="{worker}"}}' in text
        assert "process_resident_memory_bytes" in text
        server.process.send_signal(signal.SIGTERM)
        assert await server.stop() == 0
        await server.log("stopped", worker_exit_statuses=[0, 0, 0])


async def test_a_killed_worker_is_replaced_while_the_other_answers(tmp_path: Path, first: Bundle) -> None:
    async with (
        serve(tmp_path, bundle_path=first.directory, store_url=NO_STORE, workers=2) as server,
        connections_to_all(server, 2) as workers,
    ):
        for connection in workers.values():
            await connection.recommend()
        before = await value_of(server, 'tandem_requests_total{code="OK"}')
        assert before == 2.0
        killed = await server.worker_pid(1)
        os.kill(killed, signal.SIGKILL)

        async def replaced() -> bool:
            assert (await workers[2].recommend()).model_version == "one"
            assert await value_of(server, 'tandem_requests_total{code="OK"}') >= before, "a sum never goes down"
            return await server.worker_pid(1) != killed

        await wait_until(replaced, "the killed worker is replaced")
        line = await server.log("worker_ended", worker=1)
        assert (line["pid"], line["exit_status"]) == (killed, -9)
        async with connections_to_all(server, 2) as again:
            assert (await again[1].recommend()).model_version == "one", "it never listened without a model"
        assert await value_of(server, "tandem_worker_restarts_total") == 1.0
        assert await value_of(server, "tandem_bundle_swaps_total") == 1.0


async def test_metrics_are_there_while_a_worker_hangs(tmp_path: Path, first: Bundle) -> None:
    async with (
        serve(tmp_path, bundle_path=first.directory, store_url=NO_STORE, workers=2) as server,
        connections_to_all(server, 2) as workers,
    ):
        for connection in workers.values():
            await connection.recommend()
        assert await value_of(server, 'tandem_requests_total{code="OK"}') == 2.0
        pid = await server.worker_pid(1)
        os.kill(pid, signal.SIGSTOP)
        try:
            text = await server.metrics()
            assert 'tandem_worker_up{worker="1"} 0.0' in text
            assert 'tandem_worker_up{worker="2"} 1.0' in text
            assert 'tandem_requests_total{code="OK"} 2.0' in text, "the last counts of the hanging worker are kept"
            assert 'tandem_worker_resident_memory_bytes{worker="1"}' in text
        finally:
            os.kill(pid, signal.SIGCONT)

        async def up_again() -> bool:
            return await value_of(server, 'tandem_worker_up{worker="1"}') == 1.0

        await wait_until(up_again, "the worker answers again")


async def test_two_workers_swap_together_and_no_connection_goes_back(
    tmp_path: Path, registry: MlflowRegistry, model_name: str, first: Bundle, second: Bundle
) -> None:
    registry.register(first.directory, model_name=model_name, model_version="one", alias=ALIAS)
    settings = {"registry_uri": registry.uri, "model_name": model_name, "store_url": NO_STORE, "workers": 2}
    async with serve(tmp_path, **settings) as server, connections_to_all(server, 2) as workers:
        versions: dict[int, list[str]] = {worker: [] for worker in workers}

        async def ask(connection: Connection) -> None:
            while True:
                response = await connection.recommend()
                assert {item.item_id.split("-")[0] for item in response.items} == {response.model_version}
                seen = versions[connection.worker]
                if not seen or seen[-1] != response.model_version:
                    seen.append(response.model_version)

        async with asyncio.TaskGroup() as group:
            asking = [group.create_task(ask(connection)) for connection in workers.values()]
            registry.register(second.directory, model_name=model_name, model_version="two", alias=ALIAS)
            await wait_until(lambda: all(seen[-1:] == ["two"] for seen in versions.values()), "both answer with two")
            for task in asking:
                task.cancel()
        assert versions == {1: ["one", "two"], 2: ["one", "two"]}
        text = await server.metrics()
        assert "tandem_bundle_swaps_total 2.0" in text
        assert re.search(r"^tandem_swap_window_seconds \d", text, re.MULTILINE)
        assert "tandem_bundle_overlap_with_previous 0.0" in text, "the bundles have no item in common"
        assert sum(line["event"] == "bundle_downloaded" for line in server.logs) == 2, "one download for all workers"
        assert sum(line["event"] == "bundle_checked" for line in server.logs) == 2, "one check for all workers"

        # A worker that starts now opens the serving bundle, not the bundle that the server began with.
        killed = await server.worker_pid(2)
        os.kill(killed, signal.SIGKILL)
        await wait_until(lambda: len(listenings(server, 2)) == 2, "worker 2 is replaced")
        async with connections_to_all(server, 2) as again:
            assert (await again[2].recommend()).model_version == "two"


async def test_a_bundle_that_is_two_swaps_old_is_let_go(  # noqa: PLR0917 - fixtures, given by name
    tmp_path: Path, registry: MlflowRegistry, model_name: str, first: Bundle, second: Bundle, bundle: Bundle
) -> None:
    number = registry.register(first.directory, model_name=model_name, model_version="one", alias=ALIAS)
    async with serve(tmp_path, registry_uri=registry.uri, model_name=model_name, store_url=NO_STORE) as server:
        pid = await server.worker_pid(1)
        folder = f"{tmp_path}/bundles/{number}/"
        assert folder in maps_of(pid)
        registry.register(second.directory, model_name=model_name, model_version="two", alias=ALIAS)
        await server.log("model_serving", model_version="two")
        assert folder in maps_of(pid), "it stays open, for a way back"
        registry.register(bundle.directory, model_name=model_name, model_version="tiny-1", alias=ALIAS)
        await server.log("model_serving", model_version="tiny-1")
        await wait_until(lambda: folder not in maps_of(pid), "nothing of the first bundle is mapped any more")


def maps_of(pid: int) -> str:
    return Path(f"/proc/{pid}/maps").read_text()


def listenings(server: Server, worker: int) -> list[dict[str, object]]:
    return [line for line in server.logs if line["event"] == "worker_listening" and line["worker"] == worker]


async def test_workers_that_never_come_up_end_the_server(tmp_path: Path, first: Bundle) -> None:
    # Only workers read the policies: every worker ends at its start.
    policies = tmp_path / "policies.yaml"
    policies.write_text("default: {diversity: 7}")
    environment = server_environment(
        tmp_path, bundle_path=first.directory, policies_file=policies, worker_start_attempts=2
    )
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "inference_server", "serve"), env=environment, stderr=asyncio.subprocess.PIPE
    )
    async with asyncio.timeout(PATIENCE_SECONDS):
        _, errors = await process.communicate()
    assert process.returncode == 1
    lines = [json.loads(line) for line in errors.splitlines()]
    assert sum(line["event"] == "worker_ended" for line in lines) == 2
    assert all("diversity" in line["reason"] for line in lines if line["event"] == "worker_ended")
    assert "worker 1 ended 2 times before it answered" in next(
        line["reason"] for line in lines if line["event"] == "workers_failed"
    )


def test_a_port_is_held_for_its_workers_alone() -> None:
    with hold_port("127.0.0.1", 0, purpose="tests") as port:
        with pytest.raises(PortUnavailable, match=str(port)), hold_port("127.0.0.1", port, purpose="tests"):
            pass
        workers = [socket.socket() for _ in range(2)]
        for worker in workers:
            worker.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            worker.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            worker.bind(("127.0.0.1", port))
            worker.listen()
        with pytest.raises(PortUnavailable, match=str(port)), hold_port("127.0.0.1", port, purpose="tests"):
            pass
        for worker in workers:
            worker.close()
    with hold_port("127.0.0.1", port, purpose="tests") as again:
        assert again == port


async def test_workers_outlive_their_fork_server_and_a_new_one_is_made(tmp_path: Path, first: Bundle) -> None:
    async with serve(tmp_path, bundle_path=first.directory, store_url=NO_STORE, workers=2) as server:
        killed = await server.worker_pid(1)
        fork_server = int(Path(f"/proc/{killed}/stat").read_text().rpartition(")")[2].split()[1])  # noqa: ASYNC240
        assert fork_server != server.process.pid
        os.kill(fork_server, signal.SIGKILL)
        assert (await server.recommend()).model_version == "one"
        os.kill(killed, signal.SIGKILL)
        await wait_until(lambda: len(listenings(server, 1)) == 2, "worker 1 is replaced")
        async with connections_to_all(server, 2) as workers:
            for connection in workers.values():
                assert (await connection.recommend()).model_version == "one"


async def test_a_sigterm_to_every_process_is_a_clean_end(tmp_path: Path, first: Bundle) -> None:
    async with serve(tmp_path, bundle_path=first.directory, store_url=NO_STORE, workers=2) as server:
        worker = await server.worker_pid(1)
        fork_server = int(Path(f"/proc/{worker}/stat").read_text().rpartition(")")[2].split()[1])  # noqa: ASYNC240
        for pid in (server.process.pid, fork_server, worker, await server.worker_pid(2)):
            os.kill(pid, signal.SIGTERM)
        assert await server.stop() == 0
        assert not any(line["event"] == "worker_restarting" for line in server.logs)
