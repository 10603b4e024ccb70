"""What all tests have in common."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import structlog
from hypothesis import settings

# A busy machine is no defect: no example has a time limit.
settings.register_profile("tandem", deadline=None)
settings.load_profile("tandem")


@pytest.fixture(autouse=True)
def _logs_as_they_were() -> Iterator[None]:
    """A command that a test calls in this process has its logs go to that test's stderr, which is closed after it."""
    yield
    structlog.reset_defaults()
