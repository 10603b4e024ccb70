"""What a Redis or Valkey says about itself in INFO, and what of it makes the server unfit to be the online store.

Keys of one user lie in different slots of a cluster, and a sentinel holds no data, so neither can be the store. A
replica has the data, but may be behind, and writes nothing: after a fail-over the address may lead to one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

_NEVER_EVICTS: Final = "noeviction"


@dataclass(frozen=True, kw_only=True, slots=True)
class StoreHealth:
    """The state of a server, as far as it shows its INFO: a managed server may hide it, and then all is empty."""

    mode: str = "standalone"
    """`standalone`, `cluster` or `sentinel`."""
    master: str = ""
    """Address of the master that a replica follows; empty for a master."""
    num_replicas: int = 0
    """Replicas that have received all data and follow now."""
    maxmemory_policy: str = _NEVER_EVICTS
    num_evicted: int = 0
    """Keys that were evicted since the server's start."""

    @property
    def unusable(self) -> str:
        """Why this can never be the online store; empty if it can."""
        if self.mode == "cluster":
            return (
                "it is a Redis Cluster (cluster_enabled:1), whose slots separate keys that change together: use a "
                "single server, with replicas if it must not fail"
            )
        if self.mode == "sentinel":
            return (
                "it is a Sentinel, which holds no data: give the address of the master, or one that follows it (a DNS "
                "name or a proxy)"
            )
        return ""

    @property
    def refusal(self) -> str:
        """Why this must not be read and written now; empty if it may."""
        if self.master:
            return f"it is a replica of {self.master} (role:slave), which may be behind, and accepts no writes"
        return self.unusable

    @property
    def warning(self) -> str:
        """What endangers the data of a store that answers; empty if nothing does."""
        if self.maxmemory_policy == _NEVER_EVICTS:
            return ""
        evicted = f", {self.num_evicted} keys so far" if self.num_evicted else ""
        return (
            f"maxmemory-policy is {self.maxmemory_policy}: a store that is full forgets users and events{evicted}; set "
            f"{_NEVER_EVICTS}"
        )


def health_of(info: bytes) -> StoreHealth:
    """The health that a reply to INFO shows."""
    values = _values(info)
    mode = values.get("redis_mode") or values.get("server_mode") or "standalone"
    is_replica = values.get("role") == "slave"
    return StoreHealth(
        mode="cluster" if values.get("cluster_enabled") == "1" else mode,
        master=f"{values.get('master_host', '?')}:{values.get('master_port', '?')}" if is_replica else "",
        num_replicas=sum(name.startswith("slave") and ",state=online" in f",{value}" for name, value in values.items()),
        maxmemory_policy=values.get("maxmemory_policy", _NEVER_EVICTS),
        num_evicted=_number(values, "evicted_keys"),
    )


def _values(info: bytes) -> Mapping[str, str]:
    lines = (line.partition(":") for line in info.decode(errors="replace").splitlines() if ":" in line)
    return {name: value for name, _, value in lines}


def _number(values: Mapping[str, str], name: str) -> int:
    text = values.get(name, "")
    return int(text) if text.isdecimal() else 0
