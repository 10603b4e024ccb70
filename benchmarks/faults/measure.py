"""Runs one fault under load and judges it: failed answers, and acknowledged events that were lost or applied twice."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmarks.faults.load import Load, Outcomes
from benchmarks.faults.stack import NUM_ITEMS, NUM_USERS, Stack, running_stack
from benchmarks.faults.table import Fault
from tests.support.serving import MlflowRegistry

_SETTLING_SECONDS: Final = 3.0
"""Load before the fault, and after it."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """The result of one fault."""

    fault: str
    what: str
    answers: int
    """Recommend calls."""
    degraded: int
    degraded_by_reason: dict[str, int]
    failed: int
    failed_by_status: dict[str, int]
    last_failure_seconds: float | None
    """Time of the last failed Recommend call, in seconds after the fault began; None: none failed."""
    events: int
    """RecordEvents calls, of one event each."""
    acknowledged: int
    lost: int
    """Acknowledged events that were not applied."""
    doubled: int
    """Events that were applied more than once."""
    unknown_applied: int
    """Events that were applied although their call failed: the caller must send them again, and may."""
    worker_lives: bool
    """Whether every worker runs during the fault."""

    @property
    def holds(self) -> bool:
        """Whether no event was lost or doubled, and no answer failed while every worker runs."""
        return not (self.lost or self.doubled or (self.worker_lives and self.failed))


async def measure(fault: Fault, folder: Path, registry: MlflowRegistry) -> Row:
    """Runs a new stack in `folder` with the fault."""
    async with running_stack(folder, registry, workers=fault.workers) as stack:
        return await measure_on(stack, fault)


async def measure_on(
    stack: Stack, fault: Fault, *, time_scale: float = 1.0, deadlines: Mapping[str, float] | None = None
) -> Row:
    """Runs the fault on a running stack. Afterwards the stack is whole again.

    `deadlines` are fields of Load, for a machine that is too busy for its defaults.
    """
    stop = asyncio.Event()
    load = Load(
        port=stack.grpc_port,
        user_ids=[f"user-{number}" for number in range(NUM_USERS)],
        item_ids=[f"item-{number}" for number in range(NUM_ITEMS)],
        **(deadlines or {}),  # type: ignore[arg-type]  # every field that takes a float is a deadline or a rate
    )
    loading = asyncio.create_task(load.run(stop))
    try:
        await asyncio.sleep(_SETTLING_SECONDS * time_scale)
        began_at = time.monotonic()
        await fault.inject(stack, fault.seconds * time_scale)
        await asyncio.sleep(_SETTLING_SECONDS * time_scale)
    finally:
        stop.set()
        outcomes = await loading
    await stack.until_applied()
    return _row(fault, outcomes, Counter(await stack.applied_event_ids()), began_at)


def _row(fault: Fault, outcomes: Outcomes, applied: Counter[str], began_at: float) -> Row:
    failures = [answer for answer in outcomes.answers if answer.code != "OK"]
    sent = outcomes.acknowledged | outcomes.refused.keys()
    return Row(
        fault=fault.name,
        what=fault.what,
        answers=len(outcomes.answers),
        degraded=sum(bool(answer.degraded) for answer in outcomes.answers),
        degraded_by_reason=dict(outcomes.degraded_reasons),
        failed=len(failures),
        failed_by_status=dict(outcomes.failures),
        last_failure_seconds=max((answer.sent_at - began_at for answer in failures), default=None),
        events=len(sent),
        acknowledged=len(outcomes.acknowledged),
        lost=len(outcomes.acknowledged - applied.keys()),
        doubled=sum(count > 1 for event_id, count in applied.items() if event_id in sent),
        unknown_applied=len(outcomes.refused.keys() & applied.keys()),
        worker_lives=fault.worker_lives,
    )
