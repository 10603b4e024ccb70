"""An MLflow server that answers what a test tells it to: a registry in the hands of somebody else."""

from __future__ import annotations

import http.server
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tandem.contract.names import MODEL_VERSION_TAG


class ScriptedRegistry:
    """Answers every question about an alias with one version, or every question with one status."""

    def __init__(self) -> None:
        self.number = "1"
        self.tag = "model-1"
        self.source: Path | str = ""
        self.status = 200
        registry = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                asked_alias = self.path.partition("?")[0].endswith("/registered-models/alias")
                body = json.dumps(registry.answer() if asked_alias else {}).encode()
                self.send_response(registry.status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                """Nothing."""

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)

    def uri(self, userinfo: str = "") -> str:
        """The registry's URI; `userinfo` stands before the host, "user:password@"."""
        return f"http://{userinfo}127.0.0.1:{self.server.server_port}"

    def answer(self) -> dict[str, object]:
        version = {
            "name": "tandem",
            "version": self.number,
            "creation_timestamp": 1,
            "last_updated_timestamp": 1,
            "source": str(self.source),
            "run_id": "",
            "status": "READY",
            "tags": [{"key": MODEL_VERSION_TAG, "value": self.tag}],
            "aliases": ["champion"],
        }
        return {"model_version": version}


@contextmanager
def scripted_registry() -> Iterator[ScriptedRegistry]:
    """Runs a scripted registry during the block."""
    registry = ScriptedRegistry()
    serving = threading.Thread(target=registry.server.serve_forever, daemon=True)
    serving.start()
    try:
        yield registry
    finally:
        registry.server.shutdown()
        registry.server.server_close()
        serving.join()
