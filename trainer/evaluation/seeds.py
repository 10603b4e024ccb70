"""Test metrics of a configuration over several seeds, beside baselines: what the documentation's numbers come from."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from trainer.config import TrainConfig
from trainer.data.config import DataConfig
from trainer.data.prepare import prepare
from trainer.evaluation.comparison import TABLE_METRICS, Comparison, compare
from trainer.evaluation.comparison_text import comparison_text, markdown_table
from trainer.evaluation.evaluation import FULL_RANKING, SAMPLED, Evaluation
from trainer.evaluation.measure import (
    SERVED,
    BaselineChoice,
    baselines_for,
    best_of,
    evaluate_all,
    fitted,
    trained_scorers,
)
from trainer.evaluation.parts import leave_last_out_part
from trainer.settings import Settings
from trainer.training.fit import unreported
from trainer.training.train import encode, train


@dataclass(frozen=True, kw_only=True)
class SeedRun:
    """One training."""

    seed: int
    best_epoch: int
    training_seconds: float
    """Of selection, choice of the blend and refit."""
    content_weight: float | None
    """Share of content in the blend that validation chose; None without content."""
    item_item_weight: float
    """Share of the item-item source in the blend's collaborative score; 0 without it."""


@dataclass(frozen=True, kw_only=True)
class SeedEvaluations:
    """What one protocol says."""

    by_model: Mapping[str, Sequence[Evaluation]]
    """The model as served and its two towers alone: one evaluation for each seed."""
    comparison: Comparison
    """Of the first seed with the baselines, which have no seed."""

    @property
    def protocol(self) -> str:
        """Of all these evaluations."""
        return self.comparison.protocol

    def values(self, model: str) -> dict[str, tuple[float, ...]]:
        """Every metric of a model: one mean over users, or total, for each seed."""
        means = [evaluation.means() for evaluation in self.by_model[model]]
        return {metric: tuple(of_seed[metric] for of_seed in means) for metric in means[0]}


@dataclass(frozen=True, kw_only=True)
class SeedsResult:
    """All seeds under all protocols."""

    data: str
    runs: tuple[SeedRun, ...]
    protocols: Mapping[str, SeedEvaluations]
    """FULL_RANKING and SAMPLED."""

    @property
    def metrics(self) -> dict[str, tuple[float, ...]]:
        """Of the model as served by full ranking: one value for each seed."""
        return self.protocols[FULL_RANKING].values(SERVED)

    def to_dict(self) -> dict[str, Any]:
        """Everything, for JSON."""
        return {
            "data": self.data,
            "runs": [asdict(run) for run in self.runs],
            "protocols": {
                name: {
                    "seeds": {
                        model: {metric: asdict(Spread.of(values)) for metric, values in found.values(model).items()}
                        for model in found.by_model
                    },
                    "first_seed": found.comparison.to_dict(),
                }
                for name, found in self.protocols.items()
            },
        }

    def to_json(self) -> str:
        """`to_dict`, for a file."""
        return json.dumps(self.to_dict(), indent=2)

    def to_text(self) -> str:
        """Markdown: the trainings, then mean and spread over seeds and the first seed's comparison by protocol."""
        runs = [
            [
                str(run.seed),
                str(run.best_epoch),
                f"{run.training_seconds:.0f}",
                "-" if run.content_weight is None else f"{run.content_weight:g}",
                f"{run.item_item_weight:g}",
            ]
            for run in self.runs
        ]
        blocks = [
            f"{self.data}, leave-last-out.",
            markdown_table(["seed", "best epoch", "training seconds", "content weight", "item-item weight"], runs),
        ]
        for found in self.protocols.values():
            label = "" if found.protocol == FULL_RANKING else f"{found.protocol}: "
            rows = [
                [model, *(str(Spread.of(found.values(model)[metric])) for metric in TABLE_METRICS)]
                for model in found.by_model
            ]
            blocks += [
                f"## {found.protocol}",
                f"Mean and standard deviation over {len(self.runs)} seeds.",
                markdown_table(["model", *(f"{label}{metric}" for metric in TABLE_METRICS)], rows),
                f"Seed {self.runs[0].seed} beside the baselines:",
                comparison_text(found.comparison),
            ]
        return "\n\n".join(blocks)


@dataclass(frozen=True)
class Spread:
    """Mean and sample standard deviation over seeds; of one seed the deviation is 0."""

    mean: float
    std: float
    values: tuple[float, ...]

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """One value for each seed."""
        return cls(
            mean=float(np.mean(values)),
            std=float(np.std(values, ddof=1)) if len(values) > 1 else 0.0,
            values=tuple(values),
        )

    def __str__(self) -> str:
        return f"{self.mean:.4f} ± {self.std:.4f}"


def evaluate_seeds(
    data_config: DataConfig,
    config: TrainConfig,
    settings: Settings,
    *,
    num_seeds: int,
    baselines: BaselineChoice = "auto",
) -> SeedsResult:
    """Trains with seeds `fit.seed`, `fit.seed` + 1, ... and scores the test items once for each. Registers nothing."""
    encoded = encode(prepare(data_config, settings.data_dir, engine=settings.engine), config, settings)
    part = leave_last_out_part(encoded.dataset, skip=0)
    protocols = (FULL_RANKING, SAMPLED)
    of_models: dict[str, dict[str, list[Evaluation]]] = {protocol: {} for protocol in protocols}
    runs = []
    for seed in range(config.fit.seed, config.fit.seed + num_seeds):
        started = time.monotonic()
        seeded = config.model_copy(update={"fit": config.fit.model_copy(update={"seed": seed})})
        trained = train(encoded, seeded, on_epoch=unreported)
        runs.append(
            SeedRun(
                seed=seed,
                best_epoch=trained.best_epoch,
                training_seconds=time.monotonic() - started,
                content_weight=trained.content_weight,
                item_item_weight=trained.item_item_weight,
            )
        )
        scorers = trained_scorers(trained, encoded, part, config)
        for protocol in protocols:
            for evaluation in evaluate_all(scorers, part, encoded, protocol):
                of_models[protocol].setdefault(evaluation.name, []).append(evaluation)
    rivals = fitted(baselines_for(encoded, baselines), part)
    found = {}
    for protocol in protocols:
        evaluations = [
            *(of_seeds[0] for of_seeds in of_models[protocol].values()),
            *evaluate_all(rivals, part, encoded, protocol),
        ]
        found[protocol] = SeedEvaluations(
            by_model=of_models[protocol], comparison=compare(evaluations, baseline=best_of(evaluations[1:]))
        )
    return SeedsResult(data=data_config.name, runs=tuple(runs), protocols=found)
