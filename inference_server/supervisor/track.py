"""The bundles of one name: the one that serves under it, the one before, and what is wrong."""

from __future__ import annotations

from dataclasses import dataclass

from inference_server.supervisor.checked_bundle import CheckedBundle


@dataclass(eq=False)
class Track:
    """An alias, or a version number, that this server serves. Changed by `WorkerPool` alone."""

    name: str
    """Empty for a bundle folder."""
    is_further: bool = False
    """Whether it answers beside the server's own model, and not as that."""
    serving: CheckedBundle | None = None
    """The bundle that all workers answer with."""
    previous: CheckedBundle | None = None
    """The bundle that they answered with before; still open."""
    problem: str = "it has not been opened yet"
    """Why nothing serves under the name, or why its newest version does not; empty: nothing is wrong. Of further models
    only: what is wrong with the server's own is a refusal or a dependency."""

    is_refused: bool = False
    """Whether the problem is that the version that it shall serve was refused."""

    def holds(self, bundle: CheckedBundle) -> bool:
        """Whether the bundle must stay open for this track."""
        return bundle in {self.serving, self.previous}
