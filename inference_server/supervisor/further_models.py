"""The models that answer beside the server's own: each followed by itself, so that none stops the server or another.

Which ones is said by the settings, and by whoever calls `serve_also` while the server runs.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Sequence
from typing import Final

import structlog

from inference_server.core.errors import CommandFailed
from inference_server.supervisor.rollout import AliasFollower
from inference_server.supervisor.track import Track
from inference_server.supervisor.worker_pool import WorkerPool
from tandem.ops.settings_types import check_served_name

_log = structlog.get_logger()

_RETRY_POLLS: Final = 5
"""Pause after a defect in following a model, in polls."""


class FurtherModels:
    """Follows the wanted models while `run` runs."""

    def __init__(
        self,
        pool: WorkerPool,
        *,
        make_follower: Callable[[Track], AliasFollower] | None,
        always: Sequence[str],
        poll_seconds: float,
    ) -> None:
        """`always` are the names in the settings. `make_follower` None: there is no registry."""
        self._pool = pool
        self._make_follower = make_follower
        self._always = tuple(always)
        self._poll_seconds = poll_seconds
        self._also: dict[str, frozenset[str]] = {}
        self._changed = asyncio.Event()
        self._followers: dict[str, AliasFollower] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def serve_also(self, names: Collection[str], *, for_whom: str = "experiments") -> None:
        """Sets the aliases and version numbers that shall answer beside those of the settings and the server's own, as
        one of those who need models wants it.

        Those that are new are opened; those that are named no longer are withdrawn. A name that is neither is shown
        with what is allowed. To be called on the event loop, whenever the names may have changed.
        """
        if frozenset(names) != self._also.get(for_whom, frozenset()):
            self._also[for_whom] = frozenset(names)
            self._changed.set()

    def follower(self, name: str) -> AliasFollower:
        """The follower of a further model. Raises CommandFailed where the server follows none of this name."""
        if name not in self._followers:
            served = ", ".join([self._pool.own.name, *self._followers])
            raise CommandFailed(f"this server does not follow {name!r}; it follows {served}")
        return self._followers[name]

    async def run(self) -> None:
        """Keeps to what is wanted until it is cancelled. Opens nothing before the server's own model answers."""
        self._show_new_ones()
        await self._pool.own_serves()
        try:
            while True:
                self._changed.clear()
                for track in [track for name, track in self._pool.further.items() if name not in self.wanted()]:
                    await self._end(track)
                self._show_new_ones()
                for name, track in self._pool.further.items():
                    if name not in self._tasks:
                        self._tasks[name] = asyncio.create_task(self._keep(track), name=f"model-{name}")
                await self._changed.wait()
        finally:
            for task in self._tasks.values():
                task.cancel()
            await asyncio.gather(*self._tasks.values(), return_exceptions=True)

    def wanted(self) -> set[str]:
        """The names of the models that shall answer beside the server's own, whether or not they can."""
        # The own model answers for its own name.
        return {*self._always}.union(*self._also.values()) - {self._pool.own.name}

    def _show_new_ones(self) -> None:
        for name in sorted(self.wanted() - self._pool.further.keys()):
            self._pool.add(Track(name, is_further=True))

    async def _keep(self, track: Track) -> None:
        """Follows one model. A defect of ours is shown as the model's problem, and it is followed anew."""
        if self._make_follower is None:
            self._pool.set_problem(track, "this server serves a bundle folder, and has no registry to find it in")
            return
        try:
            check_served_name(track.name)
        except ValueError as error:
            self._pool.set_problem(track, f"{track.name!r} {error}; or a version number")
            return
        while True:
            follower = self._followers[track.name] = self._make_follower(track)
            try:
                await follower.run(poll_seconds=self._poll_seconds)
            except Exception as error:  # whatever it is, the server and the other models go on
                _log.exception("further_model_failed", alias=track.name)
                self._pool.set_problem(track, f"a defect: {error!r}")
            await asyncio.sleep(_RETRY_POLLS * self._poll_seconds)

    async def _end(self, track: Track) -> None:
        task = self._tasks.pop(track.name, None)
        if task is not None:
            # It must not bring back what is withdrawn next.
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        self._pool.remove(track)
        follower = self._followers.pop(track.name, None)
        if follower is not None:
            follower.forget()
        _log.info("further_model_removed", alias=track.name)
