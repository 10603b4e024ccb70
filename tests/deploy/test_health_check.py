"""The health check of Dockerfile.server, run as Docker runs it, against a real health service."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from deploy.local.client import SERVICE
from deploy.local.ports import free_port

pytestmark = pytest.mark.process

DOCKERFILE = Path(__file__).parents[2] / "Dockerfile.server"


@pytest.fixture
def servicer() -> health.HealthServicer:
    return health.HealthServicer()


@pytest.fixture
def port(servicer: health.HealthServicer) -> Iterator[int]:
    server = grpc.server(ThreadPoolExecutor(max_workers=2))
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield port
    server.stop(grace=None).wait(timeout=30)


def check(port: int) -> int:
    [text] = re.findall(r"^HEALTHCHECK .* CMD (\[.*\])$", DOCKERFILE.read_text(), re.MULTILINE)
    [python, *arguments] = json.loads(text)
    assert python == "python"
    environment = {**os.environ, "TANDEM_GRPC_PORT": str(port)}
    done = subprocess.run([sys.executable, *arguments], env=environment, capture_output=True, timeout=60, check=False)
    return done.returncode


def test_serving_is_healthy(servicer: health.HealthServicer, port: int) -> None:
    servicer.set(SERVICE, health_pb2.HealthCheckResponse.SERVING)
    assert check(port) == 0


def test_a_server_without_a_model_is_unhealthy(servicer: health.HealthServicer, port: int) -> None:
    servicer.set(SERVICE, health_pb2.HealthCheckResponse.NOT_SERVING)
    assert check(port) == 1


def test_without_a_server_it_is_unhealthy() -> None:
    assert check(free_port()) == 1
