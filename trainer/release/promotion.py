"""Moves aliases between versions: promotes, rolls back, sets a challenger.

MLflow moves one alias at a time and has no compare-and-set. This module reads the alias just before and just after it
moves it, and holds a lock in the data folder, so only one program of a machine moves aliases at a time. Programs on two
machines that share a registry can still move an alias within the same few milliseconds: the later move stands, and the
earlier program gets AliasMoved.
"""

from __future__ import annotations

import datetime
import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

import structlog

from tandem.contract.names import CHALLENGER
from tandem.ops.model_registry import RegisteredVersion
from trainer.core.errors import AliasMoved, PromotionError
from trainer.core.settings import Settings
from trainer.registry.registry import (
    GATE_AGAINST_TAG,
    GATE_PASSED,
    GATE_TAG,
    ROLLED_BACK_TAG,
    Registry,
)

log = structlog.get_logger()

_PREVIOUS: Final = "-previous"


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
        self._alias = settings.model_alias
        self._lock_path = settings.data_dir / f"{settings.model_name}-aliases.lock"

    @property
    def previous_alias(self) -> str:
        """The alias of the previous champion."""
        return f"{self._alias}{_PREVIOUS}"

    def promote(self, version: RegisteredVersion, *, force: bool = False) -> Moved:
        """Makes a version the champion, and records the previous champion. `force` skips the gate's verdict.

        Raises PromotionError for a version that the gate has not passed or that was rolled back, AliasMoved if the
        champion is not the version that the gate compared with.
        """
        with self._locked():
            champion = self._registry.champion()
            if champion == version:
                return Moved(champion=version, previous=self._registry.aliased(self.previous_alias))
            if not force:
                self._check_verdict(version, champion)
            if champion is not None:
                # Moved first: after a crash between the two moves, the alias exists, and names the present champion.
                self._registry.set_alias(self.previous_alias, champion.number)
            self._move_champion(version)
            self._registry.tag(version, {ROLLED_BACK_TAG: ""})
        log.info("champion_moved", registry_version=version.number, previous=champion.number if champion else None)
        return Moved(champion=version, previous=champion)

    def roll_back(self, to: RegisteredVersion | None = None) -> Moved:
        """Makes the previous champion, or the version `to`, the champion again. A second rollback undoes the first.

        Raises PromotionError if there is no champion, or no version to roll back to.
        """
        with self._locked():
            champion = self._registry.champion()
            if champion is None:
                raise PromotionError(f"the alias {self._alias} names no version: there is nothing to roll back from")
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
            self._move_champion(target)
            self._registry.set_alias(self.previous_alias, champion.number)
            now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
            self._registry.tag(champion, {ROLLED_BACK_TAG: now})
            self._registry.tag(target, {ROLLED_BACK_TAG: ""})
        log.warning("champion_rolled_back", registry_version=target.number, from_registry_version=champion.number)
        return Moved(champion=target, previous=champion)

    def set_challenger(self, version: RegisteredVersion, *, force: bool = False) -> None:
        """Gives a version the alias `challenger`. Raises PromotionError for the champion, and without `force` for a
        version that the gate has not passed."""
        with self._locked():
            if self._registry.champion() == version:
                raise PromotionError(f"version {version.number} is the champion: it cannot challenge itself")
            if not force:
                _check_passed(version)
            self._registry.set_alias(CHALLENGER, version.number)

    def clear_challenger(self) -> RegisteredVersion | None:
        """Deletes the alias `challenger`; returns the version that it named."""
        with self._locked():
            challenger = self._registry.aliased(CHALLENGER)
            if challenger is not None:
                self._registry.delete_alias(CHALLENGER)
            return challenger

    def _check_verdict(self, version: RegisteredVersion, champion: RegisteredVersion | None) -> None:
        _check_passed(version)
        if rolled_back_at := version.tags.get(ROLLED_BACK_TAG):
            raise PromotionError(
                f"version {version.number} was rolled back at {rolled_back_at}; --force promotes it again"
            )
        against = version.tags.get(GATE_AGAINST_TAG, "")
        now = champion.number if champion else ""
        if against != now:
            raise AliasMoved(
                f"version {version.number} passed the gate against {_champion(against)}, but now there is "
                f"{_champion(now)}: validate it again"
            )

    def _move_champion(self, version: RegisteredVersion) -> None:
        self._registry.set_alias(self._alias, version.number)
        named = self._registry.champion()
        if named != version:
            raise AliasMoved(
                f"another program moved the alias {self._alias} at the same moment: it names "
                f"{_champion(named.number if named else '')}, not version {version.number}"
            )

    @contextmanager
    def _locked(self) -> Iterator[None]:
        self._lock_path.parent.mkdir(parents=True, exist_ok=True)
        with self._lock_path.open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def _check_passed(version: RegisteredVersion) -> None:
    verdict = version.tags.get(GATE_TAG, "")
    if verdict != GATE_PASSED:
        outcome = f"the gate {verdict} it" if verdict else "the gate has not judged it"
        raise PromotionError(
            f"version {version.number}: {outcome}. Run `python -m trainer validate {version.number}`, or skip the gate "
            "with --force"
        )


def _champion(number: str) -> str:
    return f"champion {number}" if number else "no champion"
