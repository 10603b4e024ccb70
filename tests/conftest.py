"""What all tests have in common."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
import structlog
from hypothesis import settings

from tests.support.tiers import Guard

# A busy machine is no defect: no example has a time limit.
settings.register_profile("tandem", deadline=None)
settings.load_profile("tandem")

if "PYTEST_XDIST_WORKER" in os.environ:
    # Two processes of tests on two cores: threads of PyTorch and BLAS would only wait for each other's.
    os.environ.setdefault("OMP_NUM_THREADS", "1")

_SLOWEST: Final = ("end_to_end", "trainer", "deploy", "feature_sync")
"""Folders that go first when tests are shared out, so that nobody waits for them in the end."""
_TOGETHER: Final = ("tests/feature_sync/features/", "tests/feature_sync/items/", "tests/inference_server/api/http/")
"""Folders whose files share something that takes long to make; all other files go wherever there is room."""
_TESTS: Final = Path(__file__).parent


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(Guard(), "tiers")


@pytest.fixture(autouse=True)
def _logs_as_they_were() -> Iterator[None]:
    """A command that a test calls in this process has its logs go to that test's stderr, which is closed after it."""
    yield
    structlog.reset_defaults()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """With several processes (`pytest -n 2`): in which order tests are shared out."""
    if hasattr(config, "workerinput"):
        order = {folder: place for place, folder in enumerate(_SLOWEST)}
        items.sort(key=lambda item: order.get(item.path.relative_to(_TESTS).parts[0], len(order)))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """With several processes: a file's tests share what they started, so they go to one process, in the order above."""
    from xdist.scheduler import LoadScopeScheduling

    class ByFile(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.split("::", 1)[0]
            return next((folder for folder in _TOGETHER if file.startswith(folder)), file)

    config.option.loadscopereorder = False
    return ByFile(config, log)
