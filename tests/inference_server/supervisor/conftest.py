"""Two bundles between which servers change."""

from __future__ import annotations

import pytest

from tandem.contract.bundle import Bundle
from tests.inference_server.conftest import build


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return build(tmp_path_factory.mktemp("bundles") / "one", model_version="one", item_prefix="one", seed=1)


@pytest.fixture(scope="module")
def second(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """Other items, another dimension: any mixture would show."""
    return build(tmp_path_factory.mktemp("bundles") / "two", model_version="two", item_prefix="two", seed=2, dim=24)
