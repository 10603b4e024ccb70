"""What the arms of experiments may name: the registry's aliases and versions, and the scenarios of the policies."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from pathlib import Path

from inference_server.core.errors import RegistryUnavailable
from inference_server.experiments.table import Known
from inference_server.policy.policy_file import scenario_names
from inference_server.supervisor.registry import Registry


class KnownNames:
    """Asks the registry and the file of policies."""

    def __init__(self, registry: Registry | None, policies_file: Path | None) -> None:
        """`registry` None: the server follows none, and no arm may name a model."""
        self._registry = registry
        self._policies_file = policies_file

    async def __call__(self, models: Collection[str] | None) -> Known:
        """What is known now, asked with the models that arms name (None: nothing is to be known of models).

        A registry that is away, or a file that cannot be read, checks nothing.
        """
        return Known(models=await self._models(models), scenarios=await asyncio.to_thread(self._scenarios))

    async def _models(self, named: Collection[str] | None) -> Collection[str] | None:
        if named is None:
            return None
        if self._registry is None or not named:
            return frozenset()
        try:
            return await self._registry.names_of_models(named)
        except RegistryUnavailable:
            return None

    def _scenarios(self) -> Collection[str] | None:
        return frozenset() if self._policies_file is None else scenario_names(self._policies_file)
