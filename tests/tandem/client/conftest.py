"""Fixtures of the client's tests."""

from __future__ import annotations

import pytest

from tests.tandem.client.both_clients import KINDS


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    """Kind of client: "sync" or "async"."""
    return str(request.param)
