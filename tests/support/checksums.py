"""Makes the manifest of a changed bundle agree with its files."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path


def correct_checksums(directory: Path) -> None:
    """Writes the present checksum and size of every file into the manifest."""
    path = directory / "manifest.json"
    manifest = json.loads(path.read_text())
    for name in manifest["files"]:
        content = (directory / name).read_bytes()
        manifest["files"][name] = {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
    path.write_text(json.dumps(manifest))
