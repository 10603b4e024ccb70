"""The supervisor's side of the bundle check: runs the check in a short-lived process and reads its result.

The supervisor itself imports no engine: it stays small, and a bundle that crashes an engine cannot crash it.
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Final

import structlog

from inference_server.bundle_check.report import CheckReport
from inference_server.core.errors import BundleRefused, RefusalKind

_log = structlog.get_logger()

_CHECK_TIMEOUT_SECONDS: Final = 600.0


async def check_in_child(directory: Path, *, previous: Path | None = None) -> CheckReport:
    """Checks a bundle, and compares it with the one that serves. Raises BundleRefused, also when the child crashes."""
    compared = () if previous is None else ("--previous", str(previous))
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "inference_server", "check", str(directory), "--json", *compared),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(_CHECK_TIMEOUT_SECONDS):
            output, _ = await process.communicate()
    except TimeoutError as error:
        reason = f"the check did not end within {_CHECK_TIMEOUT_SECONDS:.0f} s"
        raise BundleRefused(RefusalKind.CHECK_FAILED, reason) from error
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    try:
        result = json.loads(output)
    except ValueError as error:
        reason = f"the check ended with exit status {process.returncode} and without a result"
        raise BundleRefused(RefusalKind.CHECK_FAILED, reason) from error
    if "reason_kind" in result:
        raise BundleRefused(RefusalKind(result["reason_kind"]), result["reason"])
    _log.info("bundle_checked", directory=str(directory), **result)
    return CheckReport(**result)
