"""Tunes the towers by trials on the validation part, in one process or several; a trial is a run below the study's run.

Test items are never read. A second call resumes the study: its finished trials count.
"""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import re
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

import structlog
import torch

from trainer.config.help import config_toml
from trainer.config.train_config import TrainConfig
from trainer.core.errors import ConfigError, TuningError
from trainer.core.settings import Settings
from trainer.data.config import DataConfig
from trainer.data.prepare import PreparedData, prepare
from trainer.evaluation.metrics import mean_metrics
from trainer.experiments.tuning.config_file import write_config
from trainer.experiments.tuning.search_space import SEARCH_SPACE, SearchSpace, check_space, with_values
from trainer.experiments.tuning.study import Pruned, Study, Trial
from trainer.features.encoded import Encoded, encode
from trainer.registry.registry import Registry
from trainer.training.progress import EpochReport
from trainer.training.train import select

log = structlog.get_logger()
METRIC: Final = "ndcg@10"
"""The metric to maximise: its mean over the validation users, ranked as served."""
_FINGERPRINT: Final = "fingerprint"
_RUN_ID: Final = "run_id"
_STUDY_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_SEED_STRIDE: Final = 1_000_000
"""Difference between the seeds of two workers. A worker adds to its seed the number of trials in the study."""


@dataclass(frozen=True, kw_only=True)
class TuneOptions:
    """How a study runs."""

    study: str
    """Name of the study, and of its files: letters, digits, ".", "_", "-". The same name resumes the study."""
    num_trials: int = 30
    """Trials of the study, pruned ones and those of earlier calls included."""
    workers: int = 1
    """Processes that run trials, each on its share of the processors."""
    space: SearchSpace = field(default_factory=lambda: SEARCH_SPACE)
    """Settings that vary; all others keep their values in the given configuration."""
    num_startup_trials: int = 5
    """Trials drawn at random and never pruned, before TPE proposes values."""
    heartbeat_seconds: int = 60
    """A worker without a heartbeat for twice as long counts as dead, and its trial is run again."""


@dataclass(frozen=True, kw_only=True)
class TuneResult:
    """Results of a study so far."""

    storage: Path
    """The study's SQLite file."""
    config_file: Path
    """The best configuration, a TOML file for `train --config`."""
    best_trial: int
    best_value: float
    """Validation NDCG@10 of the best trial."""
    num_finished: int
    num_pruned: int


@dataclass(frozen=True, kw_only=True)
class _Work:
    """Arguments of a worker. They are sent to another process."""

    prepared: PreparedData
    config: TrainConfig
    settings: Settings
    options: TuneOptions
    worker: int
    num_trials: int
    parent_run_id: str
    num_threads: int
    """Threads of PyTorch; 0: as PyTorch chooses."""


def tune(data_config: DataConfig, config: TrainConfig, settings: Settings, options: TuneOptions) -> TuneResult:
    """Runs the remaining trials of the study, and writes the best configuration.

    Raises ConfigError for wrong options and for a study of other data, configuration or ranges; TuningError if a worker
    dies or no trial finishes.
    """
    _check(options)
    prepared = prepare(data_config, settings.data_dir, engine=settings.engine)
    study = _open_study(config, settings, options)
    fingerprint = _fingerprint(prepared, config, options.space)
    if study.note(_FINGERPRINT) not in {"", fingerprint}:
        raise ConfigError(
            f"tuning: study {options.study} was begun with other data, configuration or ranges; choose another name"
        )
    study.write_note(_FINGERPRINT, fingerprint)
    registry = Registry(settings)
    with registry.start_run(f"tune-{options.study}", run_id=study.note(_RUN_ID)) as run:
        study.write_note(_RUN_ID, run.run_id)
        trials_left = options.num_trials - sum(study.num_trials())
        log.info("tuning_started", study=options.study, trials_left=trials_left, workers=options.workers)
        _run_workers(prepared, config, settings, options, num_trials=trials_left, parent_run_id=run.run_id)
        best = study.best()
        if best is None:
            raise TuningError(f"no trial of study {options.study} has finished; ask for more trials")
        best_config = with_values(config, best.values)
        config_file = settings.data_dir / "tuning" / f"{options.study}.toml"
        write_config(best_config, config_file)
        num_finished, num_pruned = study.num_trials()
        run.log_text(config_toml(best_config, explained=False), "best_config.toml")
        run.log_metrics({f"validation/{METRIC}": best.value, "best_trial": best.number})
        run.log_metrics({"trials_finished": num_finished, "trials_pruned": num_pruned})
    log.info("tuning_finished", study=options.study, best_trial=best.number, validation_ndcg=round(best.value, 4))
    return TuneResult(
        storage=_storage(settings, options),
        config_file=config_file,
        best_trial=best.number,
        best_value=best.value,
        num_finished=num_finished,
        num_pruned=num_pruned,
    )


def _run_workers(
    prepared: PreparedData,
    config: TrainConfig,
    settings: Settings,
    options: TuneOptions,
    *,
    num_trials: int,
    parent_run_id: str,
) -> None:
    workers = min(options.workers, num_trials)
    if workers < 1:
        return
    encoded = encode(prepared, config, settings)  # caches text embeddings for all workers
    trials_each, trials_over = divmod(num_trials, workers)
    works = [
        _Work(
            prepared=prepared,
            config=config,
            settings=settings,
            options=options,
            worker=worker,
            num_trials=trials_each + (worker < trials_over),
            parent_run_id=parent_run_id,
            num_threads=max(1, (os.cpu_count() or 1) // workers) if workers > 1 else 0,
        )
        for worker in range(workers)
    ]
    if workers == 1:
        _run_trials(works[0], encoded)
        return
    # PyTorch does not survive a fork after its threads have started.
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        try:
            for done in [pool.submit(_run_work, work) for work in works]:
                done.result()
        except BrokenProcessPool as error:
            raise TuningError(
                f"a worker of study {options.study} died, perhaps out of memory; the same command resumes the study"
            ) from error


def _run_work(work: _Work) -> None:
    """Runs a worker's trials in its own process."""
    torch.set_num_threads(work.num_threads)
    _run_trials(work, encode(work.prepared, work.config, work.settings))


def _run_trials(work: _Work, encoded: Encoded) -> None:
    registry = Registry(work.settings)

    def objective(trial: Trial) -> float:
        pruned = None
        with registry.start_run(f"trial-{trial.number}", parent_run_id=work.parent_run_id) as run:
            run.log_params({"trial": trial.number, **trial.values})

            def on_epoch(report: EpochReport) -> None:
                metrics = {f"epoch/{name}": value for name, value in report.metrics.items()}
                run.log_metrics({"epoch/loss": report.loss, **metrics}, step=report.epoch)
                trial.report(report.epoch, report.metrics[METRIC])

            try:
                metrics = _validation_metrics(encoded, with_values(work.config, trial.values), on_epoch)
                run.log_metrics({f"validation/{name}": value for name, value in metrics.items()})
            except Pruned as error:  # raised after the block: the run ends as finished, not as failed
                pruned = error
            run.log_params({"pruned": pruned is not None})
        if pruned is not None:
            raise pruned
        return metrics[METRIC]

    study = _open_study(work.config, work.settings, work.options)
    seed = work.config.fit.seed + _SEED_STRIDE * work.worker
    study.run(work.options.space, work.num_trials, objective, seed=seed)


def _validation_metrics(
    encoded: Encoded, config: TrainConfig, on_epoch: Callable[[EpochReport], None]
) -> Mapping[str, float]:
    """Mean metrics over the validation users of the model selected under `config`, ranked as served."""
    # The only settings of a search space that the encoded data depend on.
    schema = replace(encoded.schema, history_length=config.towers.history_length, user_ids=config.towers.user_ids)
    return mean_metrics(select(replace(encoded, schema=schema), config, on_epoch=on_epoch).ranker.trial.metrics)


def _open_study(config: TrainConfig, settings: Settings, options: TuneOptions) -> Study:
    return Study(
        _storage(settings, options),
        options.study,
        num_startup_trials=options.num_startup_trials,
        num_warmup_epochs=config.fit.warmup_epochs,
        heartbeat_seconds=options.heartbeat_seconds,
    )


def _storage(settings: Settings, options: TuneOptions) -> Path:
    return settings.data_dir / "tuning" / f"{options.study}.db"


def _fingerprint(prepared: PreparedData, config: TrainConfig, space: SearchSpace) -> str:
    ranges = sorted((key, repr(values)) for key, values in space.items())
    return hashlib.sha256(
        f"{prepared.fingerprint}\n{config.model_dump_json(exclude={'gate'})}\n{ranges}".encode()
    ).hexdigest()


def _check(options: TuneOptions) -> None:
    if not _STUDY_NAME.fullmatch(options.study):
        raise ConfigError(f"tuning: {options.study!r} is not a name for a study: use letters, digits, '.', '_' and '-'")
    for name in ("num_trials", "workers", "num_startup_trials", "heartbeat_seconds"):
        if getattr(options, name) < 1:
            raise ConfigError(f"tuning: {name} must be at least 1 (given: {getattr(options, name)})")
    check_space(options.space)
