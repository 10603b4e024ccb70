"""The command line of the server, without running a command."""

from __future__ import annotations

import subprocess
import sys

import pytest

pytestmark = pytest.mark.process

HEAVY_LIBRARIES = ["numpy", "faiss", "onnxruntime", "grpc", "redis", "mlflow", "fastapi", "prometheus_client", "uvloop"]


def test_the_parser_of_all_commands_imports_no_engine_and_no_client() -> None:
    script = (
        "import sys\n"
        "from inference_server.commands.cli import program\n"
        "program().parser().format_help()\n"
        f"print([name for name in {HEAVY_LIBRARIES} if name in sys.modules])\n"
    )
    assert subprocess.check_output([sys.executable, "-c", script], text=True).strip() == "[]"
