"""Polls a server over HTTP until it serves the given model."""

from __future__ import annotations

import http.client
import json
import time
import urllib.request
from typing import Any, Final

from deploy.nightly.errors import NotServed
from deploy.nightly.settings import Settings
from tandem.ops.secrets import without_password

_POLL_SECONDS: Final = 1.0
_ANSWER_SECONDS: Final = 10.0


def wait_until_served(model_version: str, settings: Settings) -> dict[str, Any]:
    """The server's status once it serves `model_version`. Raises NotServed."""
    give_up_at = time.monotonic() + settings.serve_timeout_seconds
    found = "nothing answered"
    while True:
        try:
            status = _status(settings)
        except (OSError, ValueError, http.client.HTTPException) as error:
            found = " ".join(str(error).split()) or type(error).__name__
        else:
            if status["model_version"] == model_version:
                return status
            found = (
                f"it serves {status['model_version'] or 'no model'}; refused: {status.get('last_refusal') or 'none'}"
            )
        if time.monotonic() > give_up_at:
            waited = f"after {settings.serve_timeout_seconds:g} s"
            raise NotServed(f"{without_password(settings.server_url)} does not serve {model_version} {waited}: {found}")
        time.sleep(_POLL_SECONDS)


def _status(settings: Settings) -> dict[str, Any]:
    """The answer of GET /v1/status. Raises OSError, ValueError or HTTPException; ValueError if another program
    answers."""
    request = urllib.request.Request(f"{settings.server_url}/v1/status")
    if settings.api_key:
        request.add_header("x-api-key", settings.api_key)
    with urllib.request.urlopen(request, timeout=_ANSWER_SECONDS) as answer:
        status = json.load(answer)
    if not isinstance(status, dict) or "model_version" not in status:
        raise ValueError("what answers is no server of recommendations")
    return status
