from __future__ import annotations

from collections.abc import Iterator

import pytest
import structlog


@pytest.fixture(autouse=True)
def _logs_go_where_they_went() -> Iterator[None]:
    """A command that a test runs in this process has all logs go to the standard error of that test, which is closed
    when the next one logs."""
    yield
    structlog.reset_defaults()
