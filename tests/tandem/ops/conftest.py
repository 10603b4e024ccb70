from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.registries import new_registry


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A registry without models."""
    folder = tmp_path_factory.mktemp("registry")
    new_registry(folder)
    return folder / "mlflow.db"
