"""Starting and stopping: ports, health, reflection, grpcurl, signals, and the end of either process."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import ssl
import sys
import urllib.error
import urllib.request
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2

from deploy.local.ports import free_port
from tandem.contract.bundle import Bundle
from tandem.v1 import recommendation_pb2 as pb
from tests.inference_server.defects import copy_of, truncated_index
from tests.support.certificates import Authority
from tests.support.serving import (
    LONGEST_DEADLINE_MS,
    PATIENCE_SECONDS,
    MlflowRegistry,
    serve,
    server_environment,
    valkey,
    wait_until,
)
from tests.support.tiny_bundle import state_of

pytestmark = pytest.mark.process

SERVICE = "tandem.v1.RecommendationService"
NO_STORE = f"redis://127.0.0.1:{free_port()}/0"


async def run(*command: str, environment: dict[str, str] | None = None) -> tuple[int, str, str]:
    process = await asyncio.create_subprocess_exec(
        *command, env=environment, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    async with asyncio.timeout(PATIENCE_SECONDS):
        output, errors = await process.communicate()
    return process.returncode or 0, output.decode(), errors.decode()


def grpcurl() -> str:
    return str(Path(sys.executable).with_name("grpcurl"))


async def test_grpcurl_lists_and_calls_through_reflection(tmp_path: Path, bundle: Bundle) -> None:
    async with serve(tmp_path, bundle_path=bundle.directory, store_url=NO_STORE) as server:
        address = f"127.0.0.1:{server.grpc_port}"
        status, output, errors = await run(grpcurl(), "-plaintext", address, "list")
        assert status == 0, errors
        assert {SERVICE, "grpc.health.v1.Health", "grpc.channelz.v1.Channelz"} <= set(output.split())
        request = json.dumps({"num_items": 3, "explain": True, "recent_item_ids": ["item-1"]})
        status, output, errors = await run(grpcurl(), "-plaintext", "-d", request, address, f"{SERVICE}/Recommend")
        assert status == 0, errors
        answer = json.loads(output)
        assert len(answer["items"]) == 3
        assert answer["model_version"] == "tiny-1"
        assert answer["source"] == "RECOMMENDATION_SOURCE_RETRIEVED"
        status, output, _ = await run(grpcurl(), "-plaintext", address, "grpc.channelz.v1.Channelz/GetServers")
        assert status == 0
        assert "server" in json.loads(output)


async def test_reflection_can_be_switched_off(tmp_path: Path, bundle: Bundle) -> None:
    async with serve(tmp_path, bundle_path=bundle.directory, store_url=NO_STORE, reflection="false") as server:
        status, _, errors = await run(grpcurl(), "-plaintext", f"127.0.0.1:{server.grpc_port}", "list")
        assert status != 0
        assert "reflection" in errors
        assert len((await server.recommend()).items) == 10


async def test_metrics_over_tls_with_a_key(tmp_path: Path, bundle: Bundle) -> None:
    authority = Authority()
    certificate, private_key = authority.issue().write(tmp_path)
    key = tmp_path / "key"
    key.write_text("a-key-of-prometheus")
    settings = {
        "metrics_tls_certificate": certificate,
        "metrics_tls_key": private_key,
        "metrics_key_file": key,
        "bundle_path": bundle.directory,
        "store_url": NO_STORE,
    }
    async with serve(tmp_path, **settings) as server:
        context = ssl.create_default_context(cadata=authority.certificate.decode())
        page = urllib.request.Request(f"https://127.0.0.1:{server.metrics_port}/metrics")
        with pytest.raises(urllib.error.HTTPError, match="401"):
            await asyncio.to_thread(urllib.request.urlopen, page, context=context)
        page.add_header("authorization", "Bearer a-key-of-prometheus")
        answer = await asyncio.to_thread(urllib.request.urlopen, page, context=context)
        assert b"tandem_requests_total" in answer.read()


async def test_files_of_the_metrics_port_that_cannot_be_used_are_named(tmp_path: Path, bundle: Bundle) -> None:
    certificate, _ = Authority().issue().write(tmp_path)
    _, other_key = Authority().issue().write(tmp_path / "other")
    environment = server_environment(
        tmp_path, bundle_path=bundle.directory, metrics_tls_certificate=certificate, metrics_tls_key=other_key
    )
    status, _, errors = await run(sys.executable, "-m", "inference_server", "serve", environment=environment)
    assert status == 1
    line = json.loads(errors.splitlines()[0])
    assert line["event"] == "port_unavailable"
    assert f"{certificate} and {other_key} are not a certificate in PEM and its unencrypted key" in line["reason"]


async def test_health_follows_the_model(
    tmp_path: Path, bundle: Bundle, registry: MlflowRegistry, model_name: str
) -> None:
    async with serve(
        tmp_path, until_serving=False, registry_uri=registry.uri, model_name=model_name, store_url=NO_STORE
    ) as server:
        missing = await server.log("alias_has_no_version", alias="champion", model_name=model_name)
        assert missing["reason"] == f"there is no registered model {model_name!r}; was it renamed?"
        assert await server.serving_status() == "NOT_SERVING"

        async def problem() -> str:
            return (await server.status()).problems.get("registry", "")

        assert await wait_until(problem, "the status says so as well") == missing["reason"]
        number = registry.register(bundle.directory, model_name=model_name, model_version="tiny-1")
        without_alias = f"the registered model {model_name!r} has no alias 'champion'"
        await server.log("alias_has_no_version", alias="champion", model_name=model_name, reason=without_alias)
        assert await server.serving_status(SERVICE) == "NOT_SERVING"
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await server.recommend()
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        assert (await server.status()).model_version == ""

        watch = server.health.Watch(health_pb2.HealthCheckRequest(service=SERVICE))
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
        registry.move_alias(model_name, "champion", number)
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
        assert await problem() == ""
        response = await server.recommend()
        assert (response.model_version, response.variant) == ("tiny-1", "champion")
        status = await server.status()
        assert (status.variant, status.registry_version) == ("champion", "1")
        assert dict(status.dependencies) == {"store": "down", "events": "down", "registry": "up"}

        # A watcher hears of the end, and does not hold it up.
        stopping = asyncio.create_task(server.stop())
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
        assert await stopping == 0


@pytest.mark.parametrize("signal_number", [signal.SIGTERM, signal.SIGINT])
async def test_a_request_in_flight_is_finished_at_shutdown(
    tmp_path: Path, bundle: Bundle, signal_number: signal.Signals
) -> None:
    async with (
        valkey(tmp_path / "valkey") as store,
        serve(
            tmp_path / "server", bundle_path=bundle.directory, store_url=store.url, deadline_ms=LONGEST_DEADLINE_MS
        ) as server,
    ):
        await store.put("u", state_of(["item-1"]))
        store.pause()
        call = asyncio.create_task(server.recommend(user_id="u"))
        await until_in_flight(server.metrics_port)
        stopping = asyncio.create_task(server.stop(signal_number))
        await server.log("draining", requests_in_flight=1)
        assert not call.done()
        store.resume()
        response = await call
        assert response.source == pb.RECOMMENDATION_SOURCE_RETRIEVED
        assert list(response.degraded_reasons) == []
        assert await stopping == 0
        await server.log("stopped", worker_exit_statuses=[0])


async def until_in_flight(metrics_port: int) -> None:
    """Waits until a request has been admitted and waits for the store."""

    async def sent() -> bool:
        reader, writer = await asyncio.open_connection("127.0.0.1", metrics_port)
        writer.write(b"GET /metrics HTTP/1.0\r\n\r\n")
        text = (await reader.read()).decode()
        writer.close()
        await writer.wait_closed()
        return "tandem_batch_requests_count 1.0" in text

    await wait_until(sent, "the request waits for the store")


async def test_a_request_that_outlasts_the_grace_period_is_cancelled(tmp_path: Path, bundle: Bundle) -> None:
    async with (
        valkey(tmp_path / "valkey") as store,
        serve(
            tmp_path / "server",
            bundle_path=bundle.directory,
            store_url=store.url,
            deadline_ms=LONGEST_DEADLINE_MS,
            shutdown_grace_seconds=0.2,
        ) as server,
    ):
        store.pause()
        call = asyncio.create_task(server.recommend(user_id="u"))
        await until_in_flight(server.metrics_port)
        assert await server.stop() == 0
        with pytest.raises(grpc.aio.AioRpcError):
            await call


async def test_a_taken_port_ends_the_server_with_a_clear_line(tmp_path: Path, bundle: Bundle) -> None:
    async with serve(tmp_path / "first", bundle_path=bundle.directory, store_url=NO_STORE) as first:
        for setting in ("grpc_port", "http_port", "metrics_port"):
            environment = server_environment(
                tmp_path / "second",
                bundle_path=bundle.directory,
                store_url=NO_STORE,
                **{setting: getattr(first, setting)},
            )
            status, _, errors = await run(sys.executable, "-m", "inference_server", "serve", environment=environment)
            assert status == 1
            lines = [json.loads(line) for line in errors.splitlines() if line.startswith("{")]
            reason = next(line["reason"] for line in lines if line["event"] == "port_unavailable")
            assert str(getattr(first, setting)) in reason


async def test_a_refused_bundle_folder_ends_the_server(tmp_path: Path, bundle: Bundle) -> None:
    broken = copy_of(bundle.directory, tmp_path / "broken")
    truncated_index(broken)
    environment = server_environment(tmp_path, bundle_path=broken, store_url=NO_STORE)
    status, _, errors = await run(sys.executable, "-m", "inference_server", "serve", environment=environment)
    assert status == 1
    lines = [json.loads(line) for line in errors.splitlines()]
    assert next(line for line in lines if line["event"] == "bundle_refused")["reason_kind"] == "corrupt"
    assert any(line["event"] == "nothing_to_serve" for line in lines)


async def test_signals_that_ask_for_nothing_end_no_process(tmp_path: Path, bundle: Bundle) -> None:
    async with serve(tmp_path, bundle_path=bundle.directory, store_url=NO_STORE) as server:
        worker = await server.worker_pid(1)
        fork_server = int(Path(f"/proc/{worker}/stat").read_text().rpartition(")")[2].split()[1])  # noqa: ASYNC240
        for number in (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
            for pid in (server.process.pid, fork_server, worker):
                os.kill(pid, number)
            await server.log("signal_received", signal=number.name)
        assert "certificates" in (await server.log("signal_received", signal="SIGHUP"))["effect"]
        assert len((await server.recommend()).items) == 10
        assert await server.worker_pid(1) == worker
        assert await server.stop() == 0
        assert (await server.log("draining"))["reason"]
        await server.log("signal_received", signal="SIGTERM")


async def test_a_worker_stops_when_its_supervisor_dies(tmp_path: Path, bundle: Bundle) -> None:
    async with serve(tmp_path, bundle_path=bundle.directory, store_url=NO_STORE) as server:
        worker = await server.worker_pid(1)
        server.process.kill()
        await wait_until(lambda: not Path(f"/proc/{worker}").exists(), "the worker has ended")


async def test_the_worker_imports_no_registry_and_the_supervisor_no_engine() -> None:
    def imported_by(module: str) -> str:
        return f"import sys, {module}; print(*sorted({{name.split('.')[0] for name in sys.modules}}))"

    _, output, errors = await run(sys.executable, "-c", imported_by("inference_server.worker.worker"))
    assert "faiss" in output.split(), errors
    assert not {"prometheus_client", "mlflow", "torch", "transformers", "sqlalchemy", "onnx", "pandas"} & set(
        output.split()
    )
    _, output, errors = await run(sys.executable, "-c", imported_by("inference_server.supervisor.supervisor"))
    assert "structlog" in output.split(), errors
    assert not {"faiss", "onnxruntime", "grpc", "redis", "mlflow", "torch"} & set(output.split())


async def test_debug_logs_every_request(tmp_path: Path, bundle: Bundle) -> None:
    async with serve(tmp_path, bundle_path=bundle.directory, store_url=NO_STORE, log_level="debug") as server:
        response = await server.recommend()
        line = await server.log("answered", request_id=response.request_id)
        assert line["source"] == "POPULAR"
        assert server.unparsed == []
