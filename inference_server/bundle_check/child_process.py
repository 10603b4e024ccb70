"""The supervisor's side of the bundle check: runs the check in a short-lived process and reads its result.

The supervisor itself imports no engine: it stays small, and a bundle that crashes an engine cannot crash it.
"""

from __future__ import annotations

from pathlib import Path

import structlog

from inference_server.bundle_check.report import CheckReport
from inference_server.core.errors import BundleRefused, RefusalKind
from tandem.contract.manifest import MANIFEST
from tandem.ops.child_process import ChildFailed, ask_child

_log = structlog.get_logger()


async def check_in_child(directory: Path, *, seconds: float, previous: Path | None = None) -> CheckReport:
    """Checks a bundle, and compares it with the one that serves. Raises BundleRefused, also when the child crashes or
    does not end within `seconds`."""
    if previous is not None and not (previous / MANIFEST).is_file():
        # Somebody has emptied the folder of bundles; the new one is as good as before.
        _log.warning("previous_bundle_not_compared", directory=str(previous), reason="the folder holds no bundle")
        previous = None
    compared = () if previous is None else ("--previous", str(previous))
    try:
        result = await ask_child("inference_server", ("check", str(directory), "--json", *compared), seconds=seconds)
    except ChildFailed as error:
        raise BundleRefused(RefusalKind.CHECK_FAILED, f"the check failed: {error}") from error
    if "reason_kind" in result:
        raise BundleRefused(RefusalKind(result["reason_kind"]), result["reason"])
    _log.info("bundle_checked", directory=str(directory), **result)
    return CheckReport(**result)
