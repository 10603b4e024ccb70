"""A study: trials in an SQLite file that several processes share and that outlives them.

The only module that imports Optuna. TPE proposes values (Bergstra et al., NIPS 2011); a trial whose metric is below the
median of the other trials at the same epoch is pruned.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import optuna
from optuna.exceptions import ExperimentalWarning
from optuna.storages import RDBStorage, RetryHeartbeatStaleTrialCallback
from optuna.trial import TrialState

from trainer.experiments.tuning.search_space import Choices, FloatRange, IntRange, SearchSpace, Value

_LOCK_SECONDS: Final = 60
"""Longest wait for another process that writes to the file."""
_MAX_RETRIES: Final = 2
"""Number of times that a trial is run again after its process died."""


class Pruned(Exception):
    """Ends an unpromising trial. `Trial.report` raises it, and an objective must let it through."""


@dataclass(frozen=True, kw_only=True)
class Finished:
    """The best of the finished trials."""

    number: int
    value: float
    values: Mapping[str, Value]


class Trial:
    """A set of values to try."""

    def __init__(self, trial: optuna.Trial, values: Mapping[str, Value]) -> None:
        self.number = trial.number
        self.values = values
        self._trial = trial

    def report(self, epoch: int, value: float) -> None:
        """Records the metric after an epoch. Raises Pruned if it is below the median of the other trials."""
        self._trial.report(value, epoch)
        if self._trial.should_prune():
            raise Pruned(f"trial {self.number} pruned after epoch {epoch}")


class Study:
    """The trials under one name in one file. The metric is maximised."""

    def __init__(
        self, path: Path, name: str, *, num_startup_trials: int, num_warmup_epochs: int, heartbeat_seconds: int
    ) -> None:
        """Opens the study, or creates it.

        The first `num_startup_trials` trials are drawn at random and never pruned; no trial is pruned in its first
        `num_warmup_epochs` epochs. A process without a heartbeat for twice `heartbeat_seconds` counts as dead: its
        trial fails and is queued again.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)  # the heartbeat has been experimental since 2021
            storage = RDBStorage(
                f"sqlite:///{path.absolute()}",
                engine_kwargs={"connect_args": {"timeout": _LOCK_SECONDS}},
                heartbeat_interval=heartbeat_seconds,
                heartbeat_stale_trial_callback=RetryHeartbeatStaleTrialCallback(max_retry=_MAX_RETRIES),
            )
        self._num_startup_trials = num_startup_trials
        self._study = optuna.create_study(
            storage=storage,
            study_name=name,
            direction="maximize",
            load_if_exists=True,
            pruner=optuna.pruners.MedianPruner(
                n_startup_trials=num_startup_trials, n_warmup_steps=num_warmup_epochs + 1
            ),
        )

    def run(self, space: SearchSpace, num_trials: int, objective: Callable[[Trial], float], *, seed: int) -> None:
        """Runs `num_trials` trials, first those that dead processes left. An error of `objective` ends the run.

        Processes that share a study need different values of `seed`.
        """
        # A resumed study must not propose its first values again.
        self._study.sampler = optuna.samplers.TPESampler(
            seed=seed + len(self._study.get_trials(deepcopy=False)), n_startup_trials=self._num_startup_trials
        )

        def run_trial(trial: optuna.Trial) -> float:
            try:
                return objective(Trial(trial, {key: _suggest(trial, key, values) for key, values in space.items()}))
            except Pruned as pruned:
                raise optuna.TrialPruned(str(pruned)) from pruned

        self._study.optimize(run_trial, n_trials=num_trials)

    def num_trials(self) -> tuple[int, int]:
        """Numbers of finished trials and of pruned trials."""
        states = [trial.state for trial in self._study.get_trials(deepcopy=False)]
        return states.count(TrialState.COMPLETE), states.count(TrialState.PRUNED)

    def best(self) -> Finished | None:
        """The finished trial with the highest value; None if no trial has finished."""
        if not self._study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)):
            return None
        best = self._study.best_trial
        assert best.value is not None
        return Finished(number=best.number, value=best.value, values=best.params)

    def note(self, name: str) -> str:
        """The study's note of that name; empty if there is none."""
        return str(self._study.user_attrs.get(name, ""))

    def write_note(self, name: str, text: str) -> None:
        """Stores a note with the study."""
        self._study.set_user_attr(name, text)


def _suggest(trial: optuna.Trial, key: str, values: FloatRange | IntRange | Choices) -> Value:
    match values:
        case FloatRange():
            return trial.suggest_float(key, values.low, values.high, log=values.log)
        case IntRange():
            return trial.suggest_int(key, values.low, values.high)
        case Choices():
            chosen = trial.suggest_categorical(key, values.values)
            assert chosen is not None
            return chosen
