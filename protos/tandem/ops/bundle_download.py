"""Downloads a bundle in a child process: an artifact server may send without end, or not go on.

`python -m tandem.ops.bundle_download` is the child.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from tandem.ops.child_process import ChildFailed, ask_child, limit_memory, read_request, reply
from tandem.ops.model_registry import ModelRegistry, RegisteredVersion
from tandem.ops.process_start import start_process
from tandem.ops.secrets import redacted

_MEMORY_BYTES: Final = 2 << 30
"""Files are written as they arrive. MLflow takes 0.3 GB, and each of its threads a few megabytes."""


async def download_in_child(registry: ModelRegistry, version: RegisteredVersion, into: Path, *, seconds: float) -> Path:
    """Copies a version's bundle into the folder `into` and returns the folder of the copy.

    Raises what the registry raises when it cannot be read, also when the download takes longer than `seconds`.
    """
    request = {
        "uri": registry.uri,
        "model_name": registry.model_name,
        "number": version.number,
        "source": version.source,
        "into": str(into),
    }
    try:
        result = await ask_child(__name__, request=request, seconds=seconds)
    except ChildFailed as error:
        result = {"problem": f"version {version.number} from {redacted(version.source)}: the download failed: {error}"}
    if "problem" in result:
        raise registry.problem(result["problem"])
    return Path(result["directory"])


def main() -> None:
    """The child."""
    start_process()
    request = read_request()
    limit_memory(_MEMORY_BYTES)
    registry = ModelRegistry(request["uri"], model_name=request["model_name"])
    version = RegisteredVersion(request["number"], "", request["source"])
    try:
        reply({"directory": str(registry.download(version, Path(request["into"])))})
    except Exception as error:
        reply({"problem": redacted(str(error))})


if __name__ == "__main__":
    main()
