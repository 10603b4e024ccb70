"""What the demonstration waits for: both models in service, and archives that are complete."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Final

from deploy.simulate.errors import LoadFailed
from deploy.simulate.experiment import CHALLENGER, CHAMPION, NEW_MODEL, PLACEBO, archived_rows
from deploy.simulate.ledger import Ledger
from tandem.client import AsyncTandemClient, TandemError

PATIENCE_SECONDS: Final = 300.0
"""Limit of every wait; only a failing stack takes this long."""
_POLL_SECONDS: Final = 0.2


async def until_both_serve(address: str) -> None:
    """Waits until the experiments are in force and both of their models answer. Raises LoadFailed."""
    give_up_at = time.monotonic() + PATIENCE_SECONDS
    said = "nothing answers"
    async with AsyncTandemClient(f"grpc://{address}", deadline_ms=2_000) as client:
        while time.monotonic() < give_up_at:
            try:
                status = await client.status()
            except TandemError as error:
                said = str(error)
            else:
                waiting = [model.alias for model in status.models if not model.model_version]
                table = status.experiments.experiments if status.experiments else ()
                if set(table) == {NEW_MODEL, PLACEBO} and len(status.models) == 2 and not waiting:
                    return
                said = f"experiments in force: {', '.join(table) or 'none'}; models without a version: {waiting}"
            await asyncio.sleep(_POLL_SECONDS)
    raise LoadFailed(f"the server does not answer with {CHAMPION} and {CHALLENGER}: {said}")


async def until_archived(folder: Path, ledger: Ledger) -> None:
    """Waits until feature_sync has archived what the ledger holds. Raises LoadFailed if something is missing."""
    give_up_at = time.monotonic() + PATIENCE_SECONDS
    expected = {"impressions": ledger.all.answers, "events": sum(ledger.events.values())}
    while True:
        found = {name: archived_rows(folder / name) for name in expected}
        if all(found[name] >= number for name, number in expected.items()):
            break
        if time.monotonic() > give_up_at:
            raise LoadFailed(f"the archive has {found}, the visits made {expected}")
        await asyncio.sleep(_POLL_SECONDS)
    for name, number in expected.items():
        print(f"    {found[name]:,} {name} of {number:,}: {folder / name}")
