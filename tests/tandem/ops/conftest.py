from __future__ import annotations

from pathlib import Path

import pytest

from tandem.ops.model_registry import ModelRegistry


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A registry without models: MLflow takes seconds to make one."""
    folder = tmp_path_factory.mktemp("registry")
    assert ModelRegistry(f"sqlite:///{folder / 'mlflow.db'}", model_name="shop", creates=True).versions() == []
    return folder / "mlflow.db"
