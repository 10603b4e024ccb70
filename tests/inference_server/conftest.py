"""Fixtures of the server's tests: a bundle, the model opened from it, and a registry."""

from __future__ import annotations

from pathlib import Path

import pytest

from inference_server.model.serving_model import ModelSlot, ServingModel, open_model
from tandem.contract.bundle import Bundle
from tests.support.serving import MlflowRegistry
from tests.support.tiny_bundle import TinySpec, build_tiny_bundle


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """200 items in 8 lists, of which 3 are searched."""
    return build_tiny_bundle(tmp_path_factory.mktemp("bundles") / "tiny", TinySpec())


@pytest.fixture(scope="session")
def model(bundle: Bundle) -> ServingModel:
    return open_model(bundle.directory, variant="champion", registry_version="1")


@pytest.fixture
def models(model: ServingModel) -> ModelSlot:
    slot = ModelSlot()
    slot.current = model
    return slot


@pytest.fixture(scope="session")
def registry(tmp_path_factory: pytest.TempPathFactory) -> MlflowRegistry:
    return MlflowRegistry(tmp_path_factory.mktemp("registry"))


@pytest.fixture
def model_name(request: pytest.FixtureRequest) -> str:
    """A registered model of the test's own, because the registry is shared."""
    return str(request.node.name).replace("[", "-").replace("]", "")


def build(directory: Path, **spec: object) -> Bundle:
    return build_tiny_bundle(directory, TinySpec(**spec))  # type: ignore[arg-type]
