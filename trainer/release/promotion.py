"""Moves aliases between versions: promotes, rolls back, sets a challenger. How one moves is `ops.champion_alias`."""

from __future__ import annotations

import datetime
from dataclasses import dataclass

import structlog

from tandem.contract.names import CHALLENGER, ROLLED_BACK_TAG
from tandem.ops.champion_alias import ChampionAlias
from tandem.ops.model_registry import RegisteredVersion
from trainer.core.errors import AliasMoved, PromotionError
from trainer.core.settings import Settings
from trainer.registry.registry import Registry

log = structlog.get_logger()


@dataclass(frozen=True, kw_only=True)
class Moved:
    """The versions after a move of the champion's alias."""

    champion: RegisteredVersion
    """The version that the alias names now."""
    previous: RegisteredVersion | None
    """The version that `rollback` would restore; None if there is none."""


class Promotion:
    """Moves the aliases of one registered model."""

    def __init__(self, registry: Registry, settings: Settings) -> None:
        self._registry = registry
        self._champion_alias = ChampionAlias(
            registry,
            settings.model_alias,
            data_dir=settings.data_dir,
            refuses=PromotionError,
            overtaken=AliasMoved,
        )

    @property
    def previous_alias(self) -> str:
        """The alias of the previous champion."""
        return self._champion_alias.previous_alias

    def promote(self, version: RegisteredVersion, *, force: bool = False) -> Moved:
        """Makes a version the champion, and records the previous champion. `force` skips the gate's verdict.

        Raises PromotionError for a version that the gate has not passed or that was rolled back, AliasMoved if the
        champion is not the version that the gate compared with.
        """
        is_champion = self._registry.champion() == version
        previous = self._champion_alias.promote(version, force=force)
        if not is_champion:
            log.info("champion_moved", registry_version=version.number, previous=previous.number if previous else None)
        return Moved(champion=version, previous=previous)

    def roll_back(self, to: RegisteredVersion | None = None) -> Moved:
        """Makes the previous champion, or the version `to`, the champion again. A second rollback undoes the first.

        Raises PromotionError if there is no champion, or no version to roll back to.
        """
        with self._champion_alias.locked():
            champion = self._registry.champion()
            if champion is None:
                raise PromotionError(
                    f"the alias {self._champion_alias.alias} names no version: there is nothing to roll back from"
                )
            target = to or self._registry.aliased(self.previous_alias)
            if target is None:
                raise PromotionError(
                    f"the champion before version {champion.number} is unknown: give a version with --to VERSION"
                )
            if target == champion:
                raise PromotionError(
                    f"version {champion.number} is the champion already"
                    if to
                    else f"the alias {self.previous_alias} names version {champion.number}, which is the champion: "
                    "another program moved the alias. Give a version with --to VERSION"
                )
            self._champion_alias.move(target)
            self._registry.set_alias(self.previous_alias, champion.number)
            now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
            self._registry.tag(champion, {ROLLED_BACK_TAG: now})
            self._registry.tag(target, {ROLLED_BACK_TAG: ""})
        log.warning("champion_rolled_back", registry_version=target.number, from_registry_version=champion.number)
        return Moved(champion=target, previous=champion)

    def set_challenger(self, version: RegisteredVersion, *, force: bool = False) -> None:
        """Gives a version the alias `challenger`. Raises PromotionError for the champion, and without `force` for a
        version that the gate has not passed."""
        with self._champion_alias.locked():
            if self._registry.champion() == version:
                raise PromotionError(f"version {version.number} is the champion: it cannot challenge itself")
            if not force:
                self._champion_alias.require_verdict(version)
            self._registry.set_alias(CHALLENGER, version.number)

    def clear_challenger(self) -> RegisteredVersion | None:
        """Deletes the alias `challenger`; returns the version that it named."""
        with self._champion_alias.locked():
            challenger = self._registry.aliased(CHALLENGER)
            if challenger is not None:
                self._registry.delete_alias(CHALLENGER)
            return challenger
