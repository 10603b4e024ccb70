"""Passwords in every URL of the settings, with none of the servers there: the guard of the tests reads the logs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from deploy.local.ports import free_port
from tests.support.scripted_registry import scripted_registry
from tests.support.secrets import PASSWORD
from tests.support.serving import PATIENCE_SECONDS, serve

pytestmark = pytest.mark.process


async def test_a_server_without_its_dependencies_says_so_without_passwords(tmp_path: Path) -> None:
    with scripted_registry() as registry:
        registry.status = 401
        async with serve(
            tmp_path,
            until_serving=False,
            registry_uri=registry.uri(f"bob:{PASSWORD}@"),
            store_url=f"redis://:{PASSWORD}@127.0.0.1:{free_port()}/0",
            events_url=f"redis://ann:{PASSWORD}@127.0.0.1:{free_port()}/0?socket_timeout=1",
            otlp_endpoint=f"http://bob:{PASSWORD}@127.0.0.1:{free_port()}",
            trace_sample_ratio=1,
            log_level="debug",
        ) as server:
            refused = await server.log("registry_unavailable")
            assert refused["reason"].startswith("http://127.0.0.1:")
            await server.log("store_down")
            await server.log("events_down")
            assert await server.stop() == 0


def test_feature_sync_without_its_dependencies_says_so_without_passwords(tmp_path: Path) -> None:
    environment = {
        **os.environ,
        "TANDEM_DATA_DIR": str(tmp_path),
        "TANDEM_REGISTRY_URI": f"http://bob:{PASSWORD}@127.0.0.1:{free_port()}",
        "TANDEM_STORE_URL": f"redis://:{PASSWORD}@127.0.0.1:{free_port()}/0",
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    }
    done = subprocess.run(
        [sys.executable, "-m", "feature_sync", "show-item", "item-1"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )
    assert done.returncode == 1
    assert "redis://127.0.0.1:" in done.stderr
    assert "http://127.0.0.1:" in done.stderr
    assert "Traceback" not in done.stderr
