"""Runs programs of the project until they end, or stops them with SIGTERM."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

PROGRAM_SECONDS = 300.0


async def run_program(*arguments: str, environment: Mapping[str, str]) -> dict[str, Any]:
    """Runs `python -m` with `arguments`; returns the JSON object of its last line. Fails if the program fails."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", *arguments),
        env=dict(environment),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(PROGRAM_SECONDS):
            out, err = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 0, err.decode()
    result: dict[str, Any] = json.loads(out.decode().splitlines()[-1])
    return result


@asynccontextmanager
async def running_program(*arguments: str, environment: Mapping[str, str]) -> AsyncIterator[None]:
    """Runs `python -m` with `arguments` during the block; it must then exit with status 0 on SIGTERM."""
    process = await asyncio.create_subprocess_exec(*(sys.executable, "-m", *arguments), env=dict(environment))
    try:
        yield
        process.terminate()
        assert await asyncio.wait_for(process.wait(), 60) == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
