"""A real server under the attacks of `attacks`, each with 16 MB: it keeps its memory, and answers others meanwhile."""

from __future__ import annotations

import asyncio

import pytest

from tests.inference_server.api.http.attacks import ATTACKS, Attack, Target, run
from tests.support.serving import Server

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.process]

_MEGABYTES = 16.0
_MAX_GROWTH_MB = 50.0


@pytest.mark.parametrize("attack", [attack for attack in ATTACKS if attack.connections <= 50], ids=lambda it: it.name)
async def test_an_attack_takes_neither_memory_nor_the_event_loop(server: Server, attack: Attack) -> None:
    target = Target(port=server.http_port, pid=await server.worker_pid(1))
    outcome = await asyncio.to_thread(run, attack, target, megabytes=_MEGABYTES)
    assert outcome.grown_mb < _MAX_GROWTH_MB
    assert outcome.probe_seconds
    assert outcome.failed_probes == 0
    # Whoever sends on after the answer may be reset before it reads it.
    assert not attack.statuses or outcome.statuses <= attack.statuses
