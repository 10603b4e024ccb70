"""Which version an alias names: promote, roll back, set a challenger.

MLflow moves one alias at a time and has no compare-and-set. Here the alias is read again just before it is moved and
just after, and a lock in the data folder lets one program of this machine at a time do so. Between machines that share
a registry two moves within the same few milliseconds can pass each other: the later one stands, and the earlier one is
told so.
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
    """What was done."""

    champion: RegisteredVersion
    """What the alias names now."""
    previous: RegisteredVersion | None
    """What `rollback` goes to; None where there is nothing to go back to."""


class Promotion:
    """Moves the aliases of one registered model."""

    def __init__(self, registry: Registry, settings: Settings) -> None:
        self._registry = registry
        self._alias = settings.model_alias
        self._lock_path = settings.data_dir / f"{settings.model_name}-aliases.lock"

    @property
    def previous_alias(self) -> str:
        """The alias of the version that was champion before."""
        return f"{self._alias}{_PREVIOUS}"

    def promote(self, version: RegisteredVersion, *, force: bool = False) -> Moved:
        """Makes a version the champion, and remembers the one before. `force` promotes without the gate's consent.

        Raises PromotionError for a version that the gate has not passed or that was rolled back from, AliasMoved when
        another version has become champion since the gate compared with one.
        """
        with self._locked():
            champion = self._registry.champion()
            if champion == version:
                return Moved(champion=version, previous=self._registry.aliased(self.previous_alias))
            if not force:
                self._check_verdict(version, champion)
            if champion is not None:
                # First, so that a crash between the two leaves a way back, if only to where the alias is anyway.
                self._registry.set_alias(self.previous_alias, champion.number)
            self._move_champion(version)
            self._registry.tag(version, {ROLLED_BACK_TAG: ""})
        log.info("champion_moved", registry_version=version.number, previous=champion.number if champion else None)
        return Moved(champion=version, previous=champion)

    def roll_back(self, to: RegisteredVersion | None = None) -> Moved:
        """Makes the champion before the champion again, or the version `to`; doing it twice undoes it.

        Raises PromotionError where there is nothing to go back from or to.
        """
        with self._locked():
            champion = self._registry.champion()
            if champion is None:
                raise PromotionError(f"the alias {self._alias} names no version: there is nothing to go back from")
            before = to or self._registry.aliased(self.previous_alias)
            if before is None:
                raise PromotionError(
                    f"no champion before version {champion.number} is known: say which with --to VERSION"
                )
            if before == champion:
                raise PromotionError(
                    f"version {champion.number} is the champion already"
                    if to
                    else f"the alias {self.previous_alias} names version {champion.number}, which is the champion: "
                    "another program moved the alias. Say where to with --to VERSION"
                )
            self._move_champion(before)
            self._registry.set_alias(self.previous_alias, champion.number)
            now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
            self._registry.tag(champion, {ROLLED_BACK_TAG: now})
            self._registry.tag(before, {ROLLED_BACK_TAG: ""})
        log.warning("champion_rolled_back", registry_version=before.number, from_registry_version=champion.number)
        return Moved(champion=before, previous=champion)

    def set_challenger(self, version: RegisteredVersion, *, force: bool = False) -> None:
        """Has the alias `challenger` name a version. Raises PromotionError for the champion, or without `force` for a
        version that the gate has not passed."""
        with self._locked():
            if self._registry.champion() == version:
                raise PromotionError(f"version {version.number} is the champion: it cannot challenge itself")
            if not force:
                _check_passed(version)
            self._registry.set_alias(CHALLENGER, version.number)

    def clear_challenger(self) -> RegisteredVersion | None:
        """Takes the alias `challenger` away; returns what it named."""
        with self._locked():
            challenger = self._registry.aliased(CHALLENGER)
            if challenger is not None:
                self._registry.delete_alias(CHALLENGER)
            return challenger

    def _check_verdict(self, version: RegisteredVersion, champion: RegisteredVersion | None) -> None:
        _check_passed(version)
        if at := version.tags.get(ROLLED_BACK_TAG):
            raise PromotionError(f"version {version.number} was rolled back from at {at}; --force promotes it again")
        against = version.tags.get(GATE_AGAINST_TAG, "")
        now = champion.number if champion else ""
        if against != now:
            raise AliasMoved(
                f"version {version.number} passed the gate against {_champion(against)}, and now there is "
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
        said = f"the gate {verdict} it" if verdict else "no gate has judged it"
        raise PromotionError(
            f"version {version.number}: {said}. `python -m trainer validate {version.number}` judges it, --force goes "
            "without"
        )


def _champion(number: str) -> str:
    return f"champion {number}" if number else "no champion"
