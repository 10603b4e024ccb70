"""A drift run from top to bottom: windows, samples, the champion's output for them, four reports, gauges, MLflow run.

See docs/decisions/0048-drift.md.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import structlog

from tandem.contract.bundle import Bundle, read_bundle
from tandem.contract.numbers import finite_json
from tandem.ops.model_registry import RegisteredVersion
from tandem.ops.onnx_session import OnnxSession
from trainer.core.settings import Settings
from trainer.drift import tables
from trainer.drift.column_report import ColumnReport
from trainer.drift.evidently_reports import (
    column_distances,
    column_report,
    embedding_distances,
    embedding_report,
)
from trainer.drift.gauges import drift_gauges, publish_gauges
from trainer.drift.noise import noise_limits
from trainer.drift.tables import Table
from trainer.drift.windows import Sample, Window, Windows, draw_sample
from trainer.registry.registry import Registry
from trainer.scoring.candidate_ranking import RankedModel
from trainer.scoring.scorer import Scorer
from trainer.scoring.scoring_model import ScoringModel
from trainer.scoring.served_scorers import ModelScorer, RankedModelScorer

log = structlog.get_logger()

GAUGES_FILE: Final = Path("metrics", "tandem_drift.prom")
"""Path below the data folder."""
ARTIFACTS: Final = "drift"
"""Artifact folder of a run with the pages."""
MIN_USERS: Final = 20
"""Minimum number of users in a window; with fewer, distances by chance are as large as those that count as drift."""
_SEED: Final = 0


@dataclass(frozen=True, kw_only=True)
class DriftResult:
    """Result of a drift run."""

    version: RegisteredVersion | None
    """The version whose scores, lists and vectors were compared; None if there is no champion."""
    windows: Windows | None
    reports: Mapping[str, ColumnReport] = field(default_factory=dict)
    """Empty if the windows have too few users."""
    drift_share: float
    gauges_path: Path | None = None
    run_id: str = ""
    """Id of the MLflow run with the pages."""

    def says_drift(self, report: ColumnReport) -> bool:
        """Whether enough of a report's columns drifted."""
        return report.drifted_share >= self.drift_share

    @property
    def drifted(self) -> bool:
        """Whether any report says drift."""
        return any(self.says_drift(report) for report in self.reports.values())

    def to_dict(self) -> dict[str, Any]:
        """The result as it is printed and logged."""
        return {
            "drifted": self.drifted,
            "enough_data": bool(self.reports),
            "reports": {
                name: {
                    "drifted": self.says_drift(report),
                    "drifted_share": report.drifted_share,
                    "drifted_columns": list(report.drifted),
                }
                for name, report in self.reports.items()
            },
            "reference": str(self.windows.reference.span) if self.windows else None,
            "recent": str(self.windows.recent.span) if self.windows else None,
            "model_version": self.version.model_version if self.version else None,
            "registry_version": self.version.number if self.version else None,
            "run_id": self.run_id,
            "gauges": str(self.gauges_path) if self.gauges_path else None,
        }


def measure_drift(windows: Windows | None, model: str, settings: Settings) -> DriftResult:
    """Runs everything with the registered version whose number or alias is `model`; empty: the champion.

    Raises RegistryError, and GaugesError when the gauges cannot be pushed.
    """
    registry = Registry(settings)
    version = registry.find(model) if model else registry.champion()
    no_result = DriftResult(version=version, windows=windows, drift_share=settings.drift_share)
    if windows is None or version is None:
        log.warning("drift_has_nothing_to_compare", windows=windows is not None, champion=version is not None)
        return no_result
    reference, recent = _draw(windows.reference, settings), _draw(windows.recent, settings)
    if min(len(reference.users), len(recent.users)) < MIN_USERS:
        log.warning("drift_has_too_few_users", reference=len(reference.users), recent=len(recent.users))
        return no_result
    with tempfile.TemporaryDirectory(prefix="tandem-drift-") as scratch:
        pages = Path(scratch, "pages")
        pages.mkdir()
        bundle = read_bundle(registry.download(version, Path(scratch, "bundle")))
        reports = compare_samples(reference, recent, bundle, settings, pages)
        with registry.start_run(f"drift-{version.model_version}", parent_run_id=version.run_id) as run:
            result = DriftResult(
                version=version,
                windows=windows,
                reports=reports,
                drift_share=settings.drift_share,
                gauges_path=settings.data_dir / GAUGES_FILE,
                run_id=run.run_id,
            )
            run.log_metrics(_metrics(result))
            run.log_directory(pages, ARTIFACTS)
            run.log_text(finite_json(result.to_dict(), indent=2), f"{ARTIFACTS}/drift.json")
    publish_gauges(
        drift_gauges(reports, drift_share=settings.drift_share),
        settings.data_dir / GAUGES_FILE,
        pushgateway_url=settings.pushgateway_url,
    )
    return result


def compare_samples(
    reference: Sample, recent: Sample, bundle: Bundle, settings: Settings, pages: Path
) -> dict[str, ColumnReport]:
    """The four reports by name; writes one page for each into the folder `pages`."""
    old, new = _scored(reference, bundle), _scored(recent, bundle)
    named_items = tables.most_recommended(reference, old.scores)
    pairs: dict[str, tuple[Table, Table]] = {
        "inputs": (tables.inputs(reference, bundle, seed=_SEED), tables.inputs(recent, bundle, seed=_SEED)),
        "scores": (tables.scores(reference, old.scores), tables.scores(recent, new.scores)),
        "recommendations": (
            tables.recommendations(reference, old.scores, bundle, named_items=named_items, seed=_SEED),
            tables.recommendations(recent, new.scores, bundle, named_items=named_items, seed=_SEED),
        ),
    }
    reports = {}
    for name, (first, second) in pairs.items():
        compared = first.with_columns_of(second), second.with_columns_of(first)
        limits = _limits(*compared, column_distances, least=settings.drift_distance)
        reports[name] = column_report(*compared, limits, pages / f"{name}.html", drift_share=settings.drift_share)
    user_vectors = tables.vectors(reference, old.vectors), tables.vectors(recent, new.vectors)
    limits = _limits(*user_vectors, embedding_distances, least=settings.drift_embedding_distance)
    reports["embeddings"] = embedding_report(*user_vectors, limits, pages / "embeddings.html")
    return reports


@dataclass(frozen=True, kw_only=True)
class _Scored:
    """The champion's output for the users of a sample."""

    vectors: npt.NDArray[np.float32]
    """(users, dim) float32."""
    scores: npt.NDArray[np.float32]
    """(users, items) float32, with items in the rows of the sample's catalogue; -inf for items that cannot be
    recommended."""


def _draw(window: Window, settings: Settings) -> Sample:
    return draw_sample(window, max_users=settings.drift_max_users, seed=_SEED)


def _scored(sample: Sample, bundle: Bundle) -> _Scored:
    known, users = sample.known, sample.users
    model = ScoringModel.of_bundle(bundle, OnnxSession(bundle.user_tower))
    scorer: Scorer = ModelScorer(known, model, bundle.manifest.blend)
    if bundle.ranker is not None:
        scorer = RankedModelScorer(known, RankedModel(model=model, pair_scores=OnnxSession(bundle.ranker)))
    scores = scorer.scores(users)
    for user, user_scores in zip(users, scores, strict=True):
        user_scores[known.item_rows[known.offsets[user] : known.offsets[user + 1]]] = -np.inf
    states = [known.user_state(int(user), int(known.lengths[user])) for user in users]
    return _Scored(vectors=model.vectors_of([known.user_ids[user] for user in users], states), scores=scores)


def _limits(
    reference: Table, recent: Table, distances: Callable[[Table, Table], dict[str, float]], *, least: float
) -> dict[str, float]:
    noise = noise_limits(reference, len(np.unique(recent.users)), distances, seed=_SEED)
    return {name: max(least, limit) for name, limit in noise.items()}


def _metrics(result: DriftResult) -> dict[str, float]:
    metrics = {"drift": float(result.drifted)}
    for name, report in result.reports.items():
        metrics[f"drift/{name}/share"] = report.drifted_share
        for column, distance in report.distances.items():
            plain = "".join(letter if letter.isalnum() else "_" for letter in column)
            metrics[f"drift/{name}/{plain}"] = distance
            metrics[f"drift/{name}/{plain}/limit"] = report.limits[column]
    return metrics
