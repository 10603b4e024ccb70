"""One nightly run; read it downwards. A step that fails ends the run, and the champion keeps serving."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from deploy.nightly import steps
from deploy.nightly.errors import StepFailed
from deploy.nightly.settings import Settings
from deploy.nightly.steps import Command


@dataclass(kw_only=True)
class Night:
    """The steps so far."""

    seconds: dict[str, float] = field(default_factory=dict)
    """Wall time of each step, by its name."""

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Times a step."""
        _say(f"{name} ...")
        started = time.monotonic()
        try:
            yield
        finally:
            self.seconds[name] = time.monotonic() - started
            _say(f"{name}: {self.seconds[name]:.1f} s")


def run_night(settings: Settings, until: datetime, *, full: bool | None = None) -> dict[str, Any]:
    """The whole run, with the events of the days that began before `until`.

    `full` is whether to train in full; None leaves it to the weekday and to drift. Returns the result, with the seconds
    of each step; "served" is False if the gate refused the candidate. Raises StepFailed.
    """
    night = Night()
    attributed = None
    if steps.keeps_impressions(settings):
        with night.step("attribute"):
            attributed = _try(steps.attribute())
    with night.step("ingest"):
        prepared = str(_run(steps.ingest(settings, until=until.isoformat()))["prepared"])
    with night.step("drift"):
        drift = _try(steps.drift(prepared))
    if full is None:
        full = steps.train_in_full(drift, until, settings.full_weekday)
    with night.step("train"):
        candidate = _run(steps.train(settings, prepared, full=full))
    version = str(candidate["registry_version"])
    with night.step("validate"):
        verdict = _run(steps.validate(settings, version, prepared), allowed=(0, steps.EXIT_REFUSED))
    if verdict["passed"]:
        with night.step("promote"):
            _run(steps.promote(version))
        with night.step("publish"):
            _run(steps.publish(prepared))
        with night.step("serve"):
            _run(steps.serve(str(candidate["model_version"])))
        if settings.feature_store:
            with night.step("features"):
                _try(steps.features(prepared))
    return {
        "served": bool(verdict["passed"]),
        "model_version": candidate["model_version"],
        "registry_version": version,
        "full": full,
        "drifted": drift["drifted"] if drift else None,
        "failures": verdict["failures"],
        "prepared": prepared,
        "report": attributed["page"] if attributed else None,
        "seconds": {name: round(seconds, 1) for name, seconds in night.seconds.items()},
        "total_seconds": round(sum(night.seconds.values()), 1),
    }


def summary(result: dict[str, Any]) -> str:
    """The wall time of every step, for people."""
    lines = [f"{name:<10}{seconds:>9.1f} s" for name, seconds in result["seconds"].items()]
    how = "in full" if result["full"] else "a step on from the champion"
    said = "is served" if result["served"] else f"was refused: {'; '.join(result['failures'])}"
    return "\n".join([*lines, f"{'total':<10}{result['total_seconds']:>9.1f} s", f"trained {how}; the model {said}"])


def _try(command: Command) -> dict[str, Any] | None:
    """Runs an optional step. Returns None if it failed."""
    try:
        return _run(command)
    except StepFailed as error:
        _say(str(error))
        return None


def _run(command: Command, *, allowed: tuple[int, ...] = (0,)) -> dict[str, Any]:
    """Runs a command to its end; returns the JSON object in its last line."""
    done = subprocess.run([sys.executable, "-m", *command], stdout=subprocess.PIPE, text=True, check=False)
    called = f"python -m {' '.join(command[:2])}"
    if done.returncode not in allowed:
        raise StepFailed(f"{called} ended with status {done.returncode}")
    try:
        result: dict[str, Any] = json.loads(done.stdout.strip().rpartition("\n")[2])
    except ValueError as error:
        raise StepFailed(f"{called} did not print its result as JSON; it printed {done.stdout[-500:]!r}") from error
    return result


def _say(text: str) -> None:
    print(f"nightly: {text}", file=sys.stderr, flush=True)
