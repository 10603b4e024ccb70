"""What a worker shows its supervisor, so that a worker that hangs is noticed and it is known what it was doing.

The beat comes from the event loop that answers requests: a loop that is stuck does not beat, whatever other threads do.
faulthandler writes the stacks from a signal handler in C, which also runs while Python code holds the interpreter lock.
The file has no name on disk; the supervisor finds it in /proc.
"""

from __future__ import annotations

import asyncio
import faulthandler
import os

from inference_server.control.messages import Alive, ControlChannel
from inference_server.core.hang import BEAT_SECONDS, STACKS_FILE, STACKS_SIGNAL


async def beat(channel: ControlChannel) -> None:
    """Tells the supervisor regularly that the event loop runs."""
    while True:
        channel.post(Alive())
        await asyncio.sleep(BEAT_SECONDS)


def show_stacks_on_request() -> None:
    """Makes STACKS_SIGNAL write the stacks of all threads to a file in memory, which stays open."""
    faulthandler.register(STACKS_SIGNAL, file=os.memfd_create(STACKS_FILE), all_threads=True)
