"""A training run, in reading order: prepare, encode, select, blend, refit, test, export, register, gate."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import structlog

from tandem.contract.bundle import Bundle
from tandem.contract.deleted_users import DeletedUsers
from tandem.contract.manifest import TrainingData
from tandem.contract.whole_files import write_whole
from tandem.ops.deleted_users_file import read_deleted_users
from tandem.ops.file_lock import file_lock
from tandem.ops.model_registry import RegisteredVersion
from trainer.compute import distributed
from trainer.compute.device import choose_device
from trainer.config.help import config_toml
from trainer.config.train_config import TrainConfig
from trainer.core.settings import Settings
from trainer.data.config import DataConfig
from trainer.data.prepare import PreparedData, prepare
from trainer.dataset.dataset import first_user_id, leave_last_out, load_dataset
from trainer.evaluation.comparison import Comparison
from trainer.experiments.test_set_metrics import BaselineChoice, TestResult, baselines_for, measure
from trainer.export.bundle import ExportInputs, export_bundle, new_model_version
from trainer.features.encoded import Encoded
from trainer.rankers.blend.choice import CHOICE_METRIC
from trainer.registry.registry import (
    DATA_VERSION_TAG,
    EVALUATIONS,
    TRAINING_FINGERPRINT_TAG,
    WARM_START_TAG,
    WEIGHTS,
    Registry,
    Run,
)
from trainer.release.gate import GateDecision
from trainer.release.held_out_users import sample_of_dataset
from trainer.release.promotion import Promotion
from trainer.release.validate import validate
from trainer.report.build import build_report
from trainer.report.html import report_html
from trainer.report.model_card import CardContents, model_card
from trainer.results.markdown import comparison_text
from trainer.results.saved_evaluations import save_evaluations
from trainer.sources.all_sources import reported_weights
from trainer.training.fit import unreported
from trainer.training.plan import TrainingPlan
from trainer.training.previous_model import PreviousModel
from trainer.training.progress import EpochReport
from trainer.training.train import Fitted, fit_plan, fit_towers
from trainer.training.warm_start import WarmStart, encode_warm, start_of, warm_plan

log = structlog.get_logger()

REPORT_FILE = "report.html"
"""Name of the report among a run's artifacts."""


@dataclass(frozen=True, kw_only=True)
class RunResult:
    """Results of a run."""

    prepared: PreparedData
    version: RegisteredVersion
    trained: bool
    """False if the champion was already trained from these data and this configuration."""
    decision: GateDecision | None
    """The gate's decision; None if nothing was trained, or if judging is left to `validate`."""
    blend_weights: Mapping[str, float | None]
    """Share of every source that a blend can have, by source key, in the new model; see `BlendedSource.without`."""
    promoted: bool = True
    """Whether `version` is the champion now."""
    start: WarmStart = field(default_factory=WarmStart)
    """The start of the training."""

    @property
    def sample_user_id(self) -> str:
        """The first user of the prepared data, to try the server with."""
        return first_user_id(self.prepared.directory)


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """Options of a run beside data, configuration and settings."""

    if_needed: bool = False
    """Train only if the champion came from other data or another configuration."""
    baselines: BaselineChoice = "auto"
    """Baselines in the report, beside the test metrics."""
    report_path: Path | None = None
    """Second file for the report, which is logged to MLflow anyway."""
    command: str = "python -m trainer train"
    """Command that started the run, for the record."""
    promote: bool = True
    """Whether the gate judges the model and, if it passes, makes it the champion; it is registered in any case."""
    data_version: str = ""
    """Version of the data in their version control, for the record."""
    warm_start: str = ""
    """Number or alias of the registered version to continue; empty for a full training."""


def train_and_register(
    source: DataConfig | PreparedData, config: TrainConfig, settings: Settings, options: RunOptions
) -> RunResult | None:
    """Does the whole run.

    Under torchrun every process calls this. Process 0 does the whole run; all other processes help to encode and to
    train, and return None.
    """
    with distributed.process_group(choose_device(config.fit.device)):
        if distributed.rank() == 0:
            return _run(source, config, settings, options)
        _run_peer(source, config, settings)
        return None


def _run(source: DataConfig | PreparedData, config: TrainConfig, settings: Settings, options: RunOptions) -> RunResult:
    prepared = prepare(source, settings.data_dir, engine=settings.engine)
    fingerprint = training_fingerprint(prepared, config)
    with _lock_of_training(settings, fingerprint):
        return _run_alone(prepared, fingerprint, config, settings, options)


@contextmanager
def _lock_of_training(settings: Settings, fingerprint: str) -> Iterator[None]:
    """Keeps other processes from the same training of the same data, which would write the same checkpoints.

    The second process waits: with `if_needed` it finds the first one's model, and otherwise makes it again.
    """
    path = settings.data_dir / "checkpoints" / f"{fingerprint}.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    with file_lock(
        path, on_wait=lambda: log.info("waiting_for_another_process", trains="the same model", lock=str(path))
    ):
        yield


def _run_alone(
    prepared: PreparedData, fingerprint: str, config: TrainConfig, settings: Settings, options: RunOptions
) -> RunResult:
    registry = Registry(settings)
    champion = registry.champion()
    if options.if_needed and champion is not None and champion.tags.get(TRAINING_FINGERPRINT_TAG) == fingerprint:
        distributed.broadcast(False)
        return _nothing_to_train(prepared, champion)
    distributed.broadcast(True)
    dataset = load_dataset(prepared.directory)
    deleted = read_deleted_users(settings.data_dir)
    start = distributed.broadcast(start_of(registry, options.warm_start, dataset, config, deleted=deleted))
    training = _Training(
        prepared=prepared,
        encoded=encode_warm(dataset, start, config, settings),
        start=start,
        config=config,
        options=options,
        fingerprint=fingerprint,
        model_version=new_model_version(fingerprint),
        checkpoints=settings.data_dir / "checkpoints" / start.checkpoint_name(fingerprint),
    )
    version, fitted, bundle = _train_and_export(training, registry, settings)
    decision = None
    if options.promote:
        decision = _judge_and_promote(registry, version, training.encoded, config, settings, name=prepared.name)
    result = RunResult(
        prepared=prepared,
        version=version,
        trained=True,
        decision=decision,
        promoted=decision is not None and decision.passed,
        start=start,
        blend_weights=fitted.blend_weights,
    )
    _log_registered(result, bundle)
    return result


@dataclass(frozen=True, kw_only=True)
class _Training:
    """Inputs of a training."""

    prepared: PreparedData
    encoded: Encoded
    start: WarmStart
    config: TrainConfig
    options: RunOptions
    fingerprint: str
    """See `training_fingerprint`."""
    model_version: str
    checkpoints: Path
    """Folder of this training's checkpoints, which is removed once the model is registered."""


def _nothing_to_train(prepared: PreparedData, champion: RegisteredVersion) -> RunResult:
    log.info("training_not_needed", registry_version=champion.number, model_version=champion.model_version)
    return RunResult(
        prepared=prepared, version=champion, trained=False, decision=None, blend_weights=reported_weights(None)
    )


def _train_and_export(
    training: _Training, registry: Registry, settings: Settings
) -> tuple[RegisteredVersion, Fitted, Bundle]:
    """Fits, tests, exports, records and registers. The files of the returned bundle are gone when this returns.

    Users who were deleted while the model was fitted enter no file.
    """
    # The registry keeps the bundle. A copy here would add a folder every night.
    with (
        registry.start_run(training.model_version) as run,
        tempfile.TemporaryDirectory(prefix="tandem-run-") as scratch,
    ):
        _log_inputs(run, training)
        epochs: list[EpochReport] = []
        plan = warm_plan(training.encoded, training.start)
        fitted = fit_plan(plan, training.config, on_epoch=_log_epoch(run, epochs), checkpoints=training.checkpoints)
        result = measure(fitted, plan, baselines_for(training.encoded, training.options.baselines))
        card = _card(training, result.comparison)
        deleted = read_deleted_users(settings.data_dir)
        inputs = replace(_export_inputs(training, fitted, result, card), deleted=deleted)
        bundle = export_bundle(inputs, training.config, Path(scratch, "bundle"))
        report = build_report(card, result, bundle, epochs, fitted.best_epoch, deleted=deleted)
        _log_report(run, training, report_html(report))
        _log_evaluations(run, result.comparison, Path(scratch, EVALUATIONS))
        _log_weights(run, fitted, plan, training.config, Path(scratch, WEIGHTS), deleted=deleted)
        run.log_params({**_blend_params(bundle), "ranker": fitted.ranker_kind})
        run.log_metrics(_run_metrics(fitted, bundle))
        location = run.log_bundle(bundle.directory)
        version = registry.register(
            run, location, model_version=training.model_version, training_fingerprint=training.fingerprint
        )
        shutil.rmtree(training.checkpoints, ignore_errors=True)  # the model is registered, whatever is left
    return version, fitted, bundle


def _log_inputs(run: Run, training: _Training) -> None:
    prepared, data_version = training.prepared, training.options.data_version
    run.log_params({**_flat(training.config.model_dump()), **_data_params(prepared, data_version)})
    run.set_tags({DATA_VERSION_TAG: data_version, WARM_START_TAG: training.start.version_number})
    run.log_text(prepared.report.to_text(), "cleaning_report.txt")


def _card(training: _Training, comparison: Comparison) -> CardContents:
    return CardContents(
        cleaning=training.prepared.report,
        comparison=comparison,
        config_toml=config_toml(training.config, explained=False),
        command=training.options.command,
        started_from=str(training.start),
    )


def _log_report(run: Run, training: _Training, report: str) -> None:
    """Logs the report to the run, and writes it to `report_path` if that is given."""
    run.log_text(report, REPORT_FILE)
    path = training.options.report_path
    if path is not None:
        write_whole(path, report)


def _log_registered(result: RunResult, bundle: Bundle) -> None:
    log.info(
        "model_registered",
        registry_version=result.version.number,
        model_version=result.version.model_version,
        promoted=result.promoted,
        warm_started_from=result.start.version_number,
        **{f"{key}_weight": weight for key, weight in result.blend_weights.items()},
        index=asdict(bundle.manifest.index),
        onnx_max_abs_difference=bundle.manifest.onnx_max_abs_difference,
    )


def _judge_and_promote(
    registry: Registry,
    version: RegisteredVersion,
    encoded: Encoded,
    config: TrainConfig,
    settings: Settings,
    *,
    name: str,
) -> GateDecision:
    """Has the gate judge a version; promotes it if it passes. `name` is the name of the data, for the record."""
    sample = sample_of_dataset(encoded.dataset, max_users=config.gate.max_users, name=name)
    validation = validate(registry, version, lambda _: sample, config.gate)
    if validation.decision.passed:
        Promotion(registry, settings).promote(validation.version)
    return validation.decision


def _run_peer(source: DataConfig | PreparedData, config: TrainConfig, settings: Settings) -> None:
    """Does the part of `_run` that all processes share, in the same order, in every process but 0."""
    if not distributed.broadcast(False):  # the value of process 0, which has prepared the data by then
        return
    prepared = prepare(source, settings.data_dir, engine=settings.engine)
    start = distributed.broadcast(WarmStart())  # the value of process 0
    checkpoints = settings.data_dir / "checkpoints" / start.checkpoint_name(training_fingerprint(prepared, config))
    plan = warm_plan(encode_warm(load_dataset(prepared.directory), start, config, settings), start)
    fit_towers(plan, config, on_epoch=unreported, checkpoints=checkpoints)


def training_fingerprint(prepared: PreparedData, config: TrainConfig) -> str:
    """SHA-256 of the prepared data's fingerprint and the configuration, hex."""
    # A resumed run makes the same model, and must find the checkpoints of the interrupted run. The gate's limits do not
    # change the model either.
    described = config.model_dump_json(exclude={"fit": {"resume"}, "gate": True})
    return hashlib.sha256(f"{prepared.fingerprint}\n{described}".encode()).hexdigest()


def _training_data(prepared: PreparedData, data_version: str) -> TrainingData:
    return TrainingData(
        name=prepared.name,
        fingerprint=prepared.fingerprint,
        num_users=prepared.num_users,
        num_items=prepared.num_items,
        num_interactions=prepared.num_interactions,
        data_version=data_version,
    )


def _data_params(prepared: PreparedData, data_version: str) -> dict[str, object]:
    """The training data, as parameters of the run."""
    return {
        "data": prepared.name,
        "data_fingerprint": prepared.fingerprint,
        "data_version": data_version,
        "num_events": prepared.num_events,
        "newest_day": prepared.newest_day,
        "catalogue_sequence": prepared.catalogue_sequence,
    }


def _export_inputs(training: _Training, fitted: Fitted, result: TestResult, card: CardContents) -> ExportInputs:
    encoded, prepared = training.encoded, training.prepared
    return ExportInputs(
        model=fitted.model,
        schema=encoded.schema,
        item_tensors=encoded.item_tensors,
        dataset=encoded.dataset,
        hold_out=leave_last_out(encoded.dataset, skip=0),
        training_data=_training_data(prepared, training.options.data_version),
        model_version=training.model_version,
        metrics={**fitted.validation_metrics(), **result.metrics()},
        sources=fitted.sources,
        shares=fitted.shares,
        ranker=fitted.ranker,
        model_card=partial(model_card, card),
        catalogue_sequence=prepared.catalogue_sequence,
        min_rating=prepared.min_rating,
        event_weights=prepared.event_weights,
    )


def _blend_params(bundle: Bundle) -> dict[str, object]:
    """The blend as it is served, by names such as "blend.item_item.weight"; "none" without one."""
    blend = bundle.manifest.blend
    return {"blend": "none"} if blend is None else dict(_named("blend", asdict(blend)))


def _named(name: str, value: object) -> Iterator[tuple[str, object]]:
    """The numbers in nested mappings by dotted names; the names leave out the key "calibration"."""
    if isinstance(value, Mapping):
        for key, nested in value.items():
            yield from _named(name if key == "calibration" else f"{name}.{key}", nested)
    elif value is not None:
        yield name, value


def _run_metrics(fitted: Fitted, bundle: Bundle) -> dict[str, float]:
    return {
        **bundle.manifest.metrics,
        **{
            f"validation/{key}_weight_{weight:g}/{CHOICE_METRIC}": value
            for key, by_weight in fitted.validation_by_weight.items()
            for weight, value in by_weight.items()
        },
        **{f"validation/ranker_{kind}/{CHOICE_METRIC}": value for kind, value in fitted.validation_by_ranker.items()},
        "best_epoch": float(fitted.best_epoch),
        "interactions_per_second": fitted.interactions_per_second,
        "peak_memory_mib": fitted.peak_memory_bytes / 2**20,
        "index_recall_at_100": bundle.manifest.index.recall_at_100,
        "onnx_max_abs_difference": bundle.manifest.onnx_max_abs_difference,
    }


def _flat(config: dict[str, Any]) -> dict[str, object]:
    """{"fit": {"seed": 0}} -> {"fit.seed": 0}."""
    return {f"{section}.{name}": value for section, values in config.items() for name, value in values.items()}


def _log_evaluations(run: Run, comparison: Comparison, directory: Path) -> None:
    """Logs the full evaluations, which `compare` reads, and their table, for people."""
    save_evaluations(comparison.evaluations, directory)
    run.log_directory(directory, EVALUATIONS)
    run.log_text(comparison_text(comparison), "test_metrics.md")


def _log_weights(
    run: Run, fitted: Fitted, plan: TrainingPlan, config: TrainConfig, directory: Path, *, deleted: DeletedUsers
) -> None:
    """Logs the state that the next training can continue."""
    cut = plan.cut if config.fit.refit else plan.validation
    model = PreviousModel.of(fitted.model, plan.final, config, cut.num_history_events)
    model.forgetting(deleted).save(directory)
    run.log_directory(directory, WEIGHTS)


def _log_epoch(run: Run, epochs: list[EpochReport]) -> Callable[[EpochReport], None]:
    """Logs every epoch of the selection, and collects it for the report."""

    def log_epoch(report: EpochReport) -> None:
        epochs.append(report)
        metrics = {f"epoch/{name}": value for name, value in report.metrics.items()}
        training_metrics = {
            "epoch/loss": report.loss,
            "epoch/interactions_per_second": report.interactions_per_second,
            "epoch/peak_memory_mib": report.peak_memory_bytes / 2**20,
        }
        run.log_metrics({**training_metrics, **metrics}, step=report.epoch)

    return log_epoch
