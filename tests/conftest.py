"""Configuration of pytest for all tests."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
import structlog
from hypothesis import settings

from tests.support.secrets import SecretGuard
from tests.support.tiers import Guard

# Examples have no time limit: a busy machine must not fail a test.
settings.register_profile("tandem", deadline=None)
settings.load_profile("tandem")

if "PYTEST_XDIST_WORKER" in os.environ:
    # With a test process on every core, further threads of PyTorch and BLAS only wait for each other.
    os.environ.setdefault("OMP_NUM_THREADS", "1")

_SLOWEST: Final = ("end_to_end", "trainer", "deploy", "feature_sync")
"""Folders whose tests are distributed first, so that no process runs them alone at the end."""
_SHARED_FOLDERS: Final = (
    "tests/feature_sync/features/",
    "tests/feature_sync/items/",
    "tests/inference_server/api/http/",
)
"""Folders whose files share a fixture that is slow to make, and so run in the same process."""
_TESTS: Final = Path(__file__).parent


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(Guard(), "tiers")
    config.pluginmanager.register(SecretGuard(), "secrets")


@pytest.fixture(autouse=True)
def _reset_logging() -> Iterator[None]:
    """Resets logging: a command called in this process logs to its test's stderr, which is closed after the test."""
    yield
    structlog.reset_defaults()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """With several processes (`pytest -n 2`), sorts tests into the order of distribution."""
    if hasattr(config, "workerinput"):
        order = {folder: rank for rank, folder in enumerate(_SLOWEST)}
        items.sort(key=lambda item: order.get(item.path.relative_to(_TESTS).parts[0], len(order)))


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[None]:
    """Keeps modules and tests out of the garbage collector, which would traverse a million objects in vain."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()
        gc.freeze()


def pytest_sessionfinish() -> None:
    gc.unfreeze()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """With several processes, sends all tests of a file to one process, because they share fixtures."""
    from xdist.scheduler import LoadScopeScheduling

    class ByFile(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.split("::", 1)[0]
            return next((folder for folder in _SHARED_FOLDERS if file.startswith(folder)), file)

    config.option.loadscopereorder = False
    return ByFile(config, log)
