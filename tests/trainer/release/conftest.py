from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.registries import new_registry
from trainer.core.settings import Settings
from trainer.registry.registry import Registry


@pytest.fixture(scope="session")
def registry_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the MLflow database. All tests share it, each with its own model name."""
    folder = tmp_path_factory.mktemp("registry")
    new_registry(folder)
    return folder


@pytest.fixture
def settings(registry_folder: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Settings with a model name of the test's own; set in the environment too, for commands."""
    name = str(request.node.name).replace("[", "-").replace("]", "")
    uri = f"sqlite:///{registry_folder / 'mlflow.db'}"
    monkeypatch.setenv("TANDEM_DATA_DIR", str(registry_folder))
    monkeypatch.setenv("TANDEM_REGISTRY_URI", uri)
    monkeypatch.setenv("TANDEM_MODEL_NAME", name)
    monkeypatch.setenv("TANDEM_LOG_LEVEL", "error")
    return Settings(data_dir=registry_folder, registry_uri=uri, model_name=name)


@pytest.fixture
def registry(settings: Settings) -> Registry:
    return Registry(settings)
