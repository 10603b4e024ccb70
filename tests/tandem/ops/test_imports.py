"""A module of `tandem.ops` imports at most the heavy library that it is for."""

from __future__ import annotations

import subprocess
import sys

import pytest

pytestmark = pytest.mark.process

HEAVY = {"redis", "mlflow", "faiss", "onnxruntime", "torch", "grpc", "transformers", "pandas", "pydantic", "sqlalchemy"}


@pytest.mark.parametrize(
    ("module", "libraries"),
    [
        ("tandem.ops", set[str]()),
        ("tandem.ops.environment_settings", {"pydantic"}),
        ("tandem.ops.mlflow_environment", set[str]()),
        ("tandem.ops.model_registry", {"pydantic"}),
        ("tandem.ops.onnx_session", {"onnxruntime"}),
        ("tandem.ops.process_start", set[str]()),
        ("tandem.ops.secrets", set[str]()),
        ("tandem.ops.settings_types", {"pydantic"}),
    ],
)
def test_a_fresh_interpreter_loads_what_the_module_is_for(module: str, libraries: set[str]) -> None:
    program = f"import sys, {module}; print(*sorted({{m.partition('.')[0] for m in sys.modules}}))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert set(done.stdout.split()) & HEAVY == libraries
