"""One training run, read downwards: prepare, encode, select, blend, refit, test, export, register, gate."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import structlog

from tandem.contract.bundle import Bundle, read_bundle
from tandem.contract.manifest import TrainingData
from trainer.config import TrainConfig
from trainer.data.config import DataConfig
from trainer.data.prepare import PreparedData, prepare
from trainer.dataset import Dataset, first_user_id, leave_last_out
from trainer.evaluation.blending import CHOICE_METRIC
from trainer.evaluation.full_ranking import bundle_ranks
from trainer.evaluation.metrics import PerUser, metrics_per_user
from trainer.export.bundle import ExportInputs, export_bundle, new_model_version
from trainer.gate import GATE_METRIC, ChampionComparison, GateDecision, decide
from trainer.onnx_runtime import OnnxTower
from trainer.registry import RegisteredVersion, Registry, Run
from trainer.settings import Settings
from trainer.training.fit import EpochReport
from trainer.training.train import Encoded, Trained, encode, train

log = structlog.get_logger()


@dataclass(frozen=True, kw_only=True)
class RunResult:
    """What a run left behind."""

    prepared: PreparedData
    version: RegisteredVersion
    trained: bool
    """False when the champion was already trained from these data and this configuration."""
    decision: GateDecision | None
    """None where nothing was trained."""
    content_weight: float | None
    """Share of content in the blend of what was trained; None without content, or where nothing was trained."""

    @property
    def sample_user_id(self) -> str:
        """The first user of the prepared data, to try the server with."""
        return first_user_id(self.prepared.directory)


def train_and_register(
    data_config: DataConfig, config: TrainConfig, settings: Settings, *, if_needed: bool
) -> RunResult:
    """The whole run. With `if_needed` it ends early when the champion came from the same data and configuration."""
    prepared = prepare(data_config, settings.data_dir)
    fingerprint = training_fingerprint(prepared, config)
    registry = Registry(settings)
    champion = registry.champion()
    if if_needed and champion is not None and champion.training_fingerprint == fingerprint:
        log.info("training_not_needed", registry_version=champion.number, model_version=champion.model_version)
        return RunResult(prepared=prepared, version=champion, trained=False, decision=None, content_weight=None)
    model_version = new_model_version(fingerprint)
    encoded = encode(prepared, config, settings)
    # What is exported lives in the registry; a copy here would be one more for every night.
    with registry.start_run(model_version) as run, tempfile.TemporaryDirectory(prefix="tandem-run-") as scratch:
        run.log_params({**_flat(config.model_dump()), "data": prepared.name, "data_fingerprint": prepared.fingerprint})
        run.log_text(prepared.report.to_text(), "cleaning_report.txt")
        trained = train(encoded, config, on_epoch=_log_epoch(run))
        inputs = _export_inputs(trained, encoded, prepared, model_version)
        bundle = export_bundle(inputs, config, Path(scratch, "bundle"))
        run.log_params({**_blend_params(bundle), "ranker": "blend" if trained.ncf is None else "ncf"})
        run.log_metrics(_run_metrics(trained, bundle))
        source = run.log_bundle(bundle.directory)
        version = registry.register(run, source, model_version=model_version, training_fingerprint=fingerprint)
        comparison = None
        if champion is not None:
            old = read_bundle(registry.download(champion, Path(scratch, "champion")))
            comparison = compare_with_champion(encoded.dataset, bundle, old)
        decision = decide(
            validation=trained.validation[GATE_METRIC],
            validation_popularity=trained.validation_popularity[GATE_METRIC],
            comparison=comparison,
        )
        run.log_text(str(decision), "gate.txt")
        if decision.promoted:
            registry.promote(version)
    log.info(
        "model_registered",
        registry_version=version.number,
        model_version=model_version,
        promoted=decision.promoted,
        content_weight=trained.content_weight,
        index=asdict(bundle.manifest.index),
        onnx_max_abs_difference=bundle.manifest.onnx_max_abs_difference,
    )
    return RunResult(
        prepared=prepared, version=version, trained=True, decision=decision, content_weight=trained.content_weight
    )


def compare_with_champion(dataset: Dataset, candidate: Bundle, champion: Bundle) -> ChampionComparison:
    """Both bundles, as they are served, on the users' last interactions."""
    hold_out = leave_last_out(dataset, skip=0)

    def gate_metric(bundle: Bundle) -> PerUser:
        return metrics_per_user(bundle_ranks(dataset, hold_out, bundle, OnnxTower(bundle.user_tower)))[GATE_METRIC]

    return ChampionComparison(
        champion_version=champion.manifest.model_version,
        candidate=gate_metric(candidate),
        champion=gate_metric(champion),
    )


def training_fingerprint(prepared: PreparedData, config: TrainConfig) -> str:
    """SHA-256 of the prepared data's fingerprint and the configuration, hex."""
    return hashlib.sha256(f"{prepared.fingerprint}\n{config.model_dump_json()}".encode()).hexdigest()


def _export_inputs(trained: Trained, encoded: Encoded, prepared: PreparedData, model_version: str) -> ExportInputs:
    return ExportInputs(
        model=trained.model,
        schema=encoded.schema,
        item_tensors=encoded.item_tensors,
        dataset=encoded.dataset,
        hold_out=leave_last_out(encoded.dataset, skip=0),
        training_data=TrainingData(
            name=prepared.name,
            fingerprint=prepared.fingerprint,
            num_users=prepared.num_users,
            num_items=prepared.num_items,
            num_interactions=prepared.num_interactions,
        ),
        model_version=model_version,
        metrics=trained.metrics(),
        content_vectors=encoded.content_vectors,
        content_weight=trained.content_weight,
        ncf=trained.ncf,
    )


def _blend_params(bundle: Bundle) -> dict[str, object]:
    """The blend as it is served; "none" for a bundle without content."""
    blend = bundle.manifest.blend
    if blend is None:
        return {"blend": "none"}
    return {
        "blend.content_weight": blend.content_weight,
        "blend.collaborative.mean": blend.collaborative.mean,
        "blend.collaborative.std": blend.collaborative.std,
        "blend.content.mean": blend.content.mean,
        "blend.content.std": blend.content.std,
    }


def _run_metrics(trained: Trained, bundle: Bundle) -> dict[str, float]:
    return {
        **trained.metrics(),
        **{
            f"validation/content_weight_{weight:g}/{CHOICE_METRIC}": value
            for weight, value in trained.validation_by_content_weight.items()
        },
        **{f"validation/ranker_{kind}/{CHOICE_METRIC}": value for kind, value in trained.validation_by_ranker.items()},
        "best_epoch": float(trained.best_epoch),
        "index_recall_at_100": bundle.manifest.index.recall_at_100,
        "onnx_max_abs_difference": bundle.manifest.onnx_max_abs_difference,
    }


def _flat(config: dict[str, Any]) -> dict[str, object]:
    """{"fit": {"seed": 0}} -> {"fit.seed": 0}."""
    return {f"{section}.{name}": value for section, values in config.items() for name, value in values.items()}


def _log_epoch(run: Run) -> Callable[[EpochReport], None]:
    def log_epoch(report: EpochReport) -> None:
        metrics = {f"epoch/{name}": value for name, value in report.metrics.items()}
        run.log_metrics({"epoch/loss": report.loss, **metrics}, step=report.epoch)

    return log_epoch
