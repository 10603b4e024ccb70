"""How the champion's alias moves: to a version that the gate has passed, with the champion before under an alias too.

MLflow moves one alias at a time and has no compare-and-set. This module reads the alias just before and just after it
moves it, and holds a lock in the data folder, so only one program of a machine moves aliases at a time. Programs on two
machines that share a registry can still move an alias within the same few milliseconds: the later move stands, and the
earlier program is told that it was overtaken.
"""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from tandem.contract.names import GATE_AGAINST_TAG, GATE_PASSED, GATE_TAG, ROLLED_BACK_TAG
from tandem.ops.model_registry import ModelRegistry, RegisteredVersion

_PREVIOUS: Final = "-previous"


class ChampionAlias:
    """The alias of one registered model's champion. Calls block."""

    def __init__(
        self,
        registry: ModelRegistry,
        alias: str,
        *,
        data_dir: Path,
        refuses: type[Exception],
        overtaken: type[Exception],
    ) -> None:
        """`refuses` is raised for a version that must not be the champion, `overtaken` where another program has moved
        the alias."""
        self.alias: Final = alias
        self.previous_alias: Final = f"{alias}{_PREVIOUS}"
        self._registry = registry
        self._lock_path = data_dir / f"{registry.model_name}-aliases.lock"
        self._refuses = refuses
        self._overtaken = overtaken

    def promote(self, version: RegisteredVersion, *, force: bool = False) -> RegisteredVersion | None:
        """Makes a version the champion, and records the champion before, which it returns; None: there was none.

        `force` skips the gate's verdict. Raises as `require_passed` and `move` do.
        """
        with self.locked():
            champion = self._registry.aliased(self.alias)
            if champion == version:
                return self._registry.aliased(self.previous_alias)
            if not force:
                self.require_passed(version, champion)
            if champion is not None:
                # Moved first: after a crash between the two moves, the alias exists, and names the present champion.
                self._registry.set_alias(self.previous_alias, champion.number)
            self.move(version)
            self._registry.tag(version, {ROLLED_BACK_TAG: ""})
        return champion

    def require_passed(self, version: RegisteredVersion, champion: RegisteredVersion | None) -> None:
        """Raises `refuses` for a version that the gate has not passed or that was rolled back, `overtaken` if the gate
        compared it with another version than `champion`."""
        self.require_verdict(version)
        if rolled_back_at := version.tags.get(ROLLED_BACK_TAG):
            raise self._refuses(
                f"version {version.number} was rolled back at {rolled_back_at}; --force promotes it again"
            )
        against = version.tags.get(GATE_AGAINST_TAG, "")
        now = champion.number if champion else ""
        if against != now:
            raise self._overtaken(
                f"version {version.number} passed the gate against {_champion(against)}, but now there is "
                f"{_champion(now)}: validate it again"
            )

    def require_verdict(self, version: RegisteredVersion) -> None:
        """Raises `refuses` unless the gate has passed the version, against whatever champion."""
        verdict = version.tags.get(GATE_TAG, "")
        if verdict != GATE_PASSED:
            outcome = f"the gate {verdict} it" if verdict else "the gate has not judged it"
            raise self._refuses(
                f"version {version.number}: {outcome}. Run `python -m trainer validate {version.number}`, or skip the "
                "gate with --force"
            )

    def move(self, version: RegisteredVersion) -> None:
        """Makes the alias name a version. Raises `overtaken` if it names another one then."""
        self._registry.set_alias(self.alias, version.number)
        named = self._registry.aliased(self.alias)
        if named != version:
            raise self._overtaken(
                f"another program moved the alias {self.alias} at the same moment: it names "
                f"{_champion(named.number if named else '')}, not version {version.number}"
            )

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keeps the other programs of this machine from moving aliases."""
        self._lock_path.parent.mkdir(parents=True, exist_ok=True)
        with self._lock_path.open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def _champion(number: str) -> str:
    return f"champion {number}" if number else "no champion"
