"""MLflow registries in files of tests, each a copy of an empty one."""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path

from tandem.ops.model_registry import ModelRegistry


def new_registry(folder: Path) -> str:
    """Makes an empty registry in a folder, and returns its URI."""
    database = folder / "mlflow.db"
    folder.mkdir(parents=True, exist_ok=True)
    database.write_bytes(_empty_database())
    return f"sqlite:///{database}"


@functools.cache
def _empty_database() -> bytes:
    """The file of a registry as the trainer creates it. MLflow takes a second of processor time for its migrations."""
    with tempfile.TemporaryDirectory() as folder:
        database = Path(folder) / "mlflow.db"
        assert ModelRegistry(f"sqlite:///{database}", model_name="shop", creates=True).versions() == []
        return database.read_bytes()
