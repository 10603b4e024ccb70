"""A real Unleash for tests: `make unleash-env` installs it, PostgreSQL comes from the distribution."""

from __future__ import annotations

import json
import shutil
import tempfile
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from deploy.unleash.server import UnleashMissing, UnleashServer
from tests.support.secrets import secret
from tests.support.serving import PATIENCE_SECONDS

_PROJECT = "/projects/default/features"


class Unleash(UnleashServer):
    """An Unleash that can be killed, and its admin API."""

    def kill(self) -> None:
        """Ends Unleash at once; its database stays up, and `start` starts it again."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def call(self, method: str, path: str, body: object = None) -> Any:
        """Calls the admin API, for example POST `/projects/default/features`; the answer's JSON. Raises HTTPError."""
        request = urllib.request.Request(
            f"{self.url}/admin{path}",
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Authorization": self.admin_token, "Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=PATIENCE_SECONDS) as response:
            content = response.read()
        return json.loads(content) if content else None


@contextmanager
def unleash() -> Iterator[Unleash]:
    """Runs an empty Unleash during the block; skips the test where it is not installed."""
    # Not in pytest's folder, which only root may enter: PostgreSQL does not run as root.
    folder = Path(tempfile.mkdtemp(prefix="tandem-unleash-"))
    folder.chmod(0o711)
    try:
        server = Unleash(folder)
    except UnleashMissing as missing:
        shutil.rmtree(folder)
        pytest.skip(str(missing))
    secret(server.admin_token)
    secret(server.backend_token)
    try:
        server.start()
        yield server
    finally:
        server.stop()
        shutil.rmtree(folder, ignore_errors=True)


def make_flag(
    server: Unleash,
    name: str,
    *variants: dict[str, Any],
    rollout: int = 100,
    stickiness: str = "userId",
    constraints: list[dict[str, Any]] | None = None,
    parent: str = "",
) -> None:
    """Makes a flag that is on, with one strategy; `variants` are the payloads of its variants, which share the users
    equally, each named by its `arm`; an empty one has no payload. `parent` is a flag that must be off."""
    server.call("POST", _PROJECT, {"name": name, "type": "experiment"})
    set_variants(server, name, *variants, rollout=rollout, stickiness=stickiness, constraints=constraints, is_new=True)
    if parent:
        server.call("POST", f"{_PROJECT}/{name}/dependencies", {"feature": parent, "enabled": False})
    switch(server, name, on=True)


def set_variants(
    server: Unleash,
    name: str,
    *variants: dict[str, Any],
    rollout: int = 100,
    stickiness: str = "userId",
    constraints: list[dict[str, Any]] | None = None,
    is_new: bool = False,
) -> None:
    """Sets the strategy of a flag."""
    strategies = f"{_PROJECT}/{name}/environments/development/strategies"
    share = 1000 // max(len(variants), 1)
    strategy = {
        "name": "flexibleRollout",
        "parameters": {"rollout": str(rollout), "stickiness": stickiness, "groupId": f"salt of {name}"},
        "constraints": constraints or [],
        "variants": [
            {
                "name": payload.get("arm", "outside"),
                "weight": share if index else 1000 - share * (len(variants) - 1),
                "weightType": "variable",
                "stickiness": stickiness,
                **({"payload": {"type": "json", "value": json.dumps(payload)}} if payload else {}),
            }
            for index, payload in enumerate(variants)
        ],
    }
    if is_new:
        server.call("POST", strategies, strategy)
    else:
        (existing,) = server.call("GET", strategies)
        server.call("PUT", f"{strategies}/{existing['id']}", strategy)


def switch(server: Unleash, name: str, *, on: bool) -> None:
    """Turns a flag on or off."""
    server.call("POST", f"{_PROJECT}/{name}/environments/development/{'on' if on else 'off'}")
