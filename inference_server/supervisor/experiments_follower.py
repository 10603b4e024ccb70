"""Keeps the workers on the newest good table of experiments, and the last good one on disk.

A table that cannot be used changes nothing: the one in force stays, and log, metrics and GetServingStatus say why. It
is looked at again now and then, because an alias or a scenario that it names may come later.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection, Coroutine, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import structlog

from inference_server.core.errors import ExperimentsInvalid
from inference_server.core.table_status import TableStatus
from inference_server.experiments.table import Known, make_table
from inference_server.supervisor.experiment_sources import NOT_YET, UNLEASH, Offer, Source
from inference_server.supervisor.json_files import read_json, write_json
from inference_server.supervisor.worker_pool import WorkerPool
from tandem.contract.experiments import ExperimentTable
from tandem.ops.secrets import redacted

_log = structlog.get_logger()

FILE: Final = "experiments.json"
"""The last good table, in the data folder."""
DISK: Final = "disk"
_CONFIRM_SECONDS: Final = 5.0
"""How often the workers are told that the table in force was confirmed."""
_LOOK_AGAIN_SECONDS: Final = 5.0
"""How often a table that was refused is looked at again."""

KnowsNames = Callable[[Collection[str] | None], Awaitable[Known]]
"""What arms may name, asked with the models that they do name; None: models are not to be checked."""


class ExperimentsFollower:
    """Follows one source."""

    def __init__(
        self,
        source: Source,
        *,
        data_dir: Path,
        pool: WorkerPool,
        known: KnowsNames,
        on_table: Callable[[ExperimentTable], None] = lambda _: None,
    ) -> None:
        """`on_table` is told each table that comes into force."""
        self._source = source
        self._path = data_dir / FILE
        self._pool = pool
        self._known = known
        self._on_table = on_table
        self._status = TableStatus()
        self._offer: Offer | None = None
        self._in_force: Mapping[str, Any] = {}
        """The definitions of the table in force."""
        self._is_away = False
        self._looked_at = 0.0
        self._told_at = 0.0

    def restore(self) -> None:
        """Puts the last good table in force, if it is one of this source."""
        record = read_json(self._path)
        if record.get("origin") != self._source.origin:
            return
        try:
            document = record["document"]
            table = make_table(document, locate=lambda _, __: str(self._path))
            confirmed_at_seconds = float(record["confirmed_at_seconds"])
        except (ExperimentsInvalid, KeyError, TypeError, ValueError) as error:
            _log.warning("last_experiments_unreadable", path=str(self._path), reason=str(error))
            return
        status = TableStatus(source=DISK, confirmed_at_seconds=confirmed_at_seconds)
        self._put_in_force(document, table, status)

    async def run(self) -> None:
        """Follows the source until it is cancelled."""
        while True:
            await self._look()
            await self._source.wait()

    async def _look(self) -> None:
        try:
            offer = await self._source.newest()
        except ExperimentsInvalid as error:
            self._offer = None
            self._refuse(error)
            return
        if offer is not None:
            self._offer = offer
            await self._consider(offer)
        elif self._status.refusal and self._offer is not None and _passed(self._looked_at, _LOOK_AGAIN_SECONDS):
            await self._consider(self._offer)
        elif not self._source.problem and not self._status.refusal:
            self._confirm()
        self._show_source()

    async def _consider(self, offer: Offer) -> None:
        self._looked_at = time.monotonic()
        known = await self._known(_models_of(offer))
        try:
            table = offer.table(known)
        except ExperimentsInvalid as error:
            self._refuse(error)
            self._switch_off(offer.document)
            return
        status = replace(
            self._status, source=self._source.kind, confirmed_at_seconds=self._source.answered_at_seconds, refusal=""
        )
        if table.fingerprint == self._status.fingerprint:
            self._tell(None, status)
        else:
            self._put_in_force(offer.document, table, status)
        self._keep()

    def _put_in_force(self, document: Mapping[str, Any], table: ExperimentTable, status: TableStatus) -> None:
        self._in_force = document
        arms = table.arms
        experiments = tuple(dict.fromkeys(arm.experiment for arm in arms))
        self._on_table(table)
        self._tell(document, replace(status, fingerprint=table.fingerprint, experiments=experiments))
        _log.info(
            "experiments_changed", source=status.source, fingerprint=table.fingerprint, experiments=list(experiments)
        )

    def _switch_off(self, refused: Mapping[str, Any]) -> None:
        """Takes from a refused table the layers that it turns off: somebody else's mistake must not keep a kill switch
        from working. Nothing else of it can be taken."""
        before = self._in_force.get("features", ())
        held_out = {parent["feature"] for flag in before for parent in flag.get("dependencies", ())}
        offered = refused["features"] if isinstance(refused["features"], list) else ()
        turned_off = {
            flag.get("name")
            for flag in offered
            if isinstance(flag, dict) and flag.get("enabled") is False and flag.get("name") not in held_out
        }
        features = [{**flag, "enabled": False} if flag["name"] in turned_off else flag for flag in before]
        if features != list(before):
            document = {**self._in_force, "features": features}
            table = make_table(document, locate=lambda _, __: "")
            self._put_in_force(document, table, self._status)
            self._keep()

    def _refuse(self, error: ExperimentsInvalid) -> None:
        reason = redacted(str(error))
        if reason == self._status.refusal:
            return
        _log.warning("experiments_refused", source=self._source.kind, in_force=self._status.source, reason=reason)
        self._tell(None, replace(self._status, refusal=reason, num_refused=self._status.num_refused + 1))

    def _confirm(self) -> None:
        """The source says that its table is the one in force."""
        answered_at = self._source.answered_at_seconds
        if answered_at > self._status.confirmed_at_seconds and _passed(self._told_at, _CONFIRM_SECONDS):
            self._tell(None, replace(self._status, confirmed_at_seconds=answered_at))

    def _show_source(self) -> None:
        if self._source.kind != UNLEASH:
            return
        is_away = bool(self._source.problem) and self._source.problem != NOT_YET
        if is_away and not self._is_away:
            _log.warning("unleash_unavailable", reason=self._source.problem, in_force=self._status.source)
        elif self._is_away and not is_away:
            _log.info("unleash_up")
        self._is_away = is_away
        self._pool.set_dependency(UNLEASH, up=not self._source.problem, problem=self._source.problem)

    def _tell(self, document: Mapping[str, Any] | None, status: TableStatus) -> None:
        self._status, self._told_at = status, time.monotonic()
        self._pool.set_experiments(document, status)

    def _keep(self) -> None:
        record = {
            "origin": self._source.origin,
            "confirmed_at_seconds": self._status.confirmed_at_seconds,
            "document": self._in_force,
        }
        try:
            write_json(self._path, record)
        except OSError as error:
            _log.warning("experiments_not_kept", path=str(self._path), reason=str(error))


def _models_of(offer: Offer) -> set[str] | None:
    """The models that arms name; None: not known, because the table will be refused for something else."""
    try:
        return {arm.model for arm in offer.table().arms if arm.model}
    except ExperimentsInvalid:
        return None


def _passed(since: float, seconds: float) -> bool:
    return time.monotonic() - since >= seconds


async def kept_up(work: Callable[[], Coroutine[Any, Any, None]], *, event: str = "experiments_failed") -> None:
    """Starts work anew whenever it fails, and logs `event`: experiments must not end a server that answers."""
    while True:
        try:
            await work()
        except Exception as error:  # a bug of ours or of a library, which must not pass unnoticed
            _log.error(event, reason=redacted(repr(error)))
            await asyncio.sleep(_LOOK_AGAIN_SECONDS)
