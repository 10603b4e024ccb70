"""Ports and addresses: which are taken, which are free, and whether an online store answers at one."""

from __future__ import annotations

import asyncio
import socket
import time
from typing import Final

import redis.asyncio
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from deploy.local.errors import NotReady, PortTaken
from tandem.ops.secrets import without_password

HOST: Final = "127.0.0.1"
_POLL_SECONDS: Final = 0.05
_STORE_SECONDS: Final = 30.0


def free_port() -> int:
    """A port on which no process listens now."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def require_free(port: int, variable: str) -> int:
    """`port`, or a free port if it is 0. Raises PortTaken, which names the setting that changes the port."""
    if port == 0:
        return free_port()
    with socket.socket() as probe:
        # As servers do, so that a port whose last connections are still closing counts as free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            raise PortTaken(f"{HOST}:{port} is in use; stop what uses it, or set {variable}") from error
    return port


async def store_answers(url: str) -> bool:
    """Whether an online store answers PING at `url`."""
    client = redis.asyncio.Redis.from_url(url, socket_timeout=2, socket_connect_timeout=2, retry=Retry(NoBackoff(), 0))
    try:
        await client.execute_command("PING")  # type: ignore[no-untyped-call]  # so in redis-py
    except (RedisError, OSError):
        return False
    else:
        return True
    finally:
        await client.aclose()


async def wait_for_store(url: str) -> None:
    """Waits until a store answers at `url`. Raises NotReady."""
    give_up_at = time.monotonic() + _STORE_SECONDS
    while not await store_answers(url):
        if time.monotonic() > give_up_at:
            raise NotReady(f"no online store answers at {without_password(url)} after {_STORE_SECONDS:g} s")
        await asyncio.sleep(_POLL_SECONDS)
