from __future__ import annotations

import asyncio
from functools import cached_property

from pydantic import BaseModel, ConfigDict


class UnknownScenario(Exception):
    pass


class _M(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Sources(_M):
    two_tower: int = 100
    content_neighbours: int = 30
    popular: int = 0
    trending: int = 0


class Boost(_M):
    category: str = ""
    attribute: str = ""
    any_of: tuple[str, ...] = ()
    min: float | None = None
    max: float | None = None
    add: float


class Policy(_M):
    sources: Sources = Sources()
    ranker: str = "auto"
    content_weight: float | None = None
    boosts: tuple[Boost, ...] = ()
    category_caps: dict[str, int] = {}
    max_per_category: int = 0
    diversity: float = 0.0
    exploration: float = 0.0
    exclude_categories: tuple[str, ...] = ()
    include_categories: tuple[str, ...] = ()
    attributes: tuple = ()
    exclude_seen: bool | None = None

    @cached_property
    def is_choosy(self):
        return bool(self.max_per_category or self.category_caps or self.exploration)
    @cached_property
    def rules(self):
        from inference_server.catalogue import Clause

        return Clause(self.include_categories, self.exclude_categories, ())


class Policies:
    fingerprint = ""

    def __init__(self):
        self._d = Policy()

    def policy(self, s):
        if s:
            raise UnknownScenario(s)
        return self._d


class PolicyFile:
    def __init__(self, path):
        self.current = Policies()

    async def run(self):
        await asyncio.Event().wait()
