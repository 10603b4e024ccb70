"""Evaluates a configuration over several seeds by any protocol, beside baselines: the documentation's figures."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from tandem.contract.numbers import finite_json
from trainer.baselines.rating_svd import RatingSVD
from trainer.config.train_config import TrainConfig
from trainer.core.settings import Settings
from trainer.data.config import DataConfig
from trainer.data.prepare import PreparedData, prepare
from trainer.dataset.eval_split import EvalSplit
from trainer.evaluation.comparison import Comparison, compare
from trainer.evaluation.evaluation import FULL_RANKING, Evaluation
from trainer.evaluation.metrics import MAP_DEFINITION
from trainer.experiments.protocols import Protocol, ProtocolKind, protocol_of
from trainer.experiments.test_set_metrics import (
    SERVED,
    BaselineChoice,
    baselines_for,
    best_of,
    evaluate_all,
    fitted_baselines,
    fitted_scorers,
)
from trainer.features.encoded import Encoded, encode
from trainer.results.markdown import comparison_text, markdown_table
from trainer.scoring.full_evaluation import rating_errors
from trainer.scoring.scorer import RatingPredictor, Scorer
from trainer.sources.all_sources import blended_sources
from trainer.training.fit import unreported
from trainer.training.train import fit_plan


@dataclass(frozen=True, kw_only=True)
class SeedRun:
    """A training with one seed."""

    seed: int
    best_epoch: int
    training_seconds: float
    """Wall-clock time of selection, choice of the blend and refit."""
    blend_weights: Mapping[str, float | None]
    """Share of every source that a blend can have, by its key, as validation chose it."""

    def to_dict(self) -> dict[str, Any]:
        """All fields, for JSON; each weight has a key of its own."""
        described = {"seed": self.seed, "best_epoch": self.best_epoch, "training_seconds": self.training_seconds}
        return {**described, **{f"{key}_weight": weight for key, weight in self.blend_weights.items()}}


@dataclass(frozen=True, kw_only=True)
class SeedEvaluations:
    """The evaluations of a question."""

    by_model: Mapping[str, Sequence[Evaluation]]
    """Evaluations of the model as served and of its two towers alone, one for each seed."""
    comparison: Comparison
    """Compares the first seed with the baselines, which do not depend on the seed."""
    random_order: Mapping[str, float] = field(default_factory=dict)
    """Expected figures of a random order of the candidates, by metric; empty if they are not reported."""

    @property
    def sampling(self) -> str:
        """Sampling of all evaluations: FULL_RANKING or SAMPLED."""
        return self.comparison.protocol

    def values(self, model: str) -> dict[str, tuple[float, ...]]:
        """Every metric of a model, with the mean over users, or the total, of each seed."""
        means = [evaluation.means() for evaluation in self.by_model[model]]
        return {metric: tuple(seed_means[metric] for seed_means in means) for metric in means[0]}


@dataclass(frozen=True, kw_only=True)
class RatingErrors:
    """Errors of predicted ratings."""

    num_ratings: int
    """Number of targets with a rating."""
    lowest: float
    """Lowest rating of a target."""
    highest: float
    """Highest rating of a target."""
    by_model: Mapping[str, Mapping[str, float]]
    """"rmse" and "mae", by model."""

    def to_text(self) -> str:
        """The errors in Markdown."""
        rows = [[model, f"{errors['rmse']:.4f}", f"{errors['mae']:.4f}"] for model, errors in self.by_model.items()]
        caption = f"Predicted ratings: {self.num_ratings:,} held-out ratings from {self.lowest:g} to {self.highest:g}."
        return f"{caption}\n\n{markdown_table(['model', 'RMSE', 'MAE'], rows)}"


@dataclass(frozen=True, kw_only=True)
class SeedsResult:
    """Results of all seeds for all questions of a protocol."""

    data: str
    protocol: str
    description: str
    """The protocol in one sentence."""
    runs: tuple[SeedRun, ...]
    questions: Mapping[str, SeedEvaluations]
    """Evaluations by the name of the question."""
    ratings: RatingErrors | None = None
    """None if the protocol does not measure ratings or the data have none."""

    @property
    def metrics(self) -> dict[str, tuple[float, ...]]:
        """Metrics of the model as served, for the protocol's first question: one value for each seed."""
        return next(iter(self.questions.values())).values(SERVED)

    def to_dict(self) -> dict[str, Any]:
        """Everything, for JSON."""
        return {
            "data": self.data,
            "protocol": self.protocol,
            "description": self.description,
            "map": MAP_DEFINITION,
            "seeds": [run.seed for run in self.runs],
            "runs": [run.to_dict() for run in self.runs],
            "questions": {
                name: {
                    "seeds": {
                        model: {metric: asdict(Spread.of(values)) for metric, values in found.values(model).items()}
                        for model in found.by_model
                    },
                    "random_order": dict(found.random_order),
                    "first_seed": found.comparison.to_dict(),
                }
                for name, found in self.questions.items()
            },
            "ratings": self.ratings and asdict(self.ratings),
        }

    def to_json(self) -> str:
        """`to_dict`, for a file."""
        return finite_json(self.to_dict(), indent=2)

    def to_text(self) -> str:
        """Markdown: the trainings, then by question mean and spread over seeds and the comparison of the first seed."""
        weights = [f"{source.label} weight" for source in blended_sources()]
        runs = [
            [
                str(run.seed),
                str(run.best_epoch),
                f"{run.training_seconds:.0f}",
                *("-" if weight is None else f"{weight:g}" for weight in run.blend_weights.values()),
            ]
            for run in self.runs
        ]
        blocks = [
            f"{self.data}, protocol {self.protocol}. {self.description} {MAP_DEFINITION}",
            markdown_table(["seed", "best epoch", "training seconds", *weights], runs),
        ]
        for name, found in self.questions.items():
            label = "" if found.sampling == FULL_RANKING else f"{found.sampling}: "
            metrics = found.comparison.tested
            rows = [
                [model, *(str(Spread.of(found.values(model)[metric])) for metric in metrics)]
                for model in found.by_model
            ]
            seeds = ", ".join(str(run.seed) for run in self.runs)
            blocks += [
                f"## {name}",
                f"Mean and standard deviation over {len(self.runs)} seeds of the training ({seeds}).",
                markdown_table(["model", *(f"{label}{metric}" for metric in metrics)], rows),
                *(
                    f"Expected of a random order: {metric} {value:.4f}; as served has "
                    f"{Spread.of(found.values(SERVED)[metric]).mean / value:.1f} times that."
                    for metric, value in found.random_order.items()
                ),
                f"Seed {self.runs[0].seed} beside the baselines:",
                comparison_text(found.comparison),
            ]
        if self.ratings is not None:
            blocks += ["## Ratings", self.ratings.to_text()]
        return "\n\n".join(blocks)


@dataclass(frozen=True)
class Spread:
    """Mean and sample standard deviation over seeds; the deviation of a single seed is 0."""

    mean: float
    std: float
    values: tuple[float, ...]

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """From one value for each seed."""
        return cls(
            mean=float(np.mean(values)),
            std=float(np.std(values, ddof=1)) if len(values) > 1 else 0.0,
            values=tuple(values),
        )

    def __str__(self) -> str:
        return f"{self.mean:.4f} ± {self.std:.4f}"


def evaluate_seeds(
    source: DataConfig | PreparedData,
    config: TrainConfig,
    settings: Settings,
    *,
    num_seeds: int,
    baselines: BaselineChoice = "auto",
    protocol: ProtocolKind = "leave-last-out",
) -> SeedsResult:
    """Trains with seeds `fit.seed`, `fit.seed` + 1, ... and evaluates each model. Registers nothing.

    The split is the same for all seeds. Raises DataError for data that the protocol cannot split.
    """
    prepared = prepare(source, settings.data_dir, engine=settings.engine)
    encoded = encode(prepared, config, settings)
    return evaluate_protocol(
        encoded, protocol_of(encoded, protocol), config, data=prepared.name, num_seeds=num_seeds, baselines=baselines
    )


def evaluate_protocol(
    encoded: Encoded,
    protocol: Protocol,
    config: TrainConfig,
    *,
    data: str,
    num_seeds: int,
    baselines: BaselineChoice,
) -> SeedsResult:
    """As `evaluate_seeds`, for data in memory; `data` is the name of the data set."""
    evaluations_of: dict[str, dict[str, list[Evaluation]]] = {question.name: {} for question in protocol.questions}
    runs = []
    for seed in range(config.fit.seed, config.fit.seed + num_seeds):
        started = time.monotonic()
        seeded = config.model_copy(update={"fit": config.fit.model_copy(update={"seed": seed})})
        fitted = fit_plan(protocol.plan, seeded, on_epoch=unreported)
        runs.append(
            SeedRun(
                seed=seed,
                best_epoch=fitted.best_epoch,
                training_seconds=time.monotonic() - started,
                blend_weights=fitted.blend_weights,
            )
        )
        for question in protocol.questions:
            scorers = fitted_scorers(fitted, protocol.plan, question.split)
            for evaluation in evaluate_all(scorers, question.split, encoded, question.sampling):
                evaluations_of[question.name].setdefault(evaluation.name, []).append(evaluation)
    # All splits of a protocol have the same known interactions.
    rivals = fitted_baselines(
        baselines_for(protocol.plan.final, baselines, protocol.validation), protocol.questions[0].split
    )
    found = {}
    for question in protocol.questions:
        by_model = evaluations_of[question.name]
        evaluations = [
            *(seed_evaluations[0] for seed_evaluations in by_model.values()),
            *evaluate_all(rivals, question.split, encoded, question.sampling),
        ]
        best = best_of(evaluations[1:], question.decisive)
        found[question.name] = SeedEvaluations(
            by_model=by_model,
            comparison=compare(evaluations, baseline=best, tested=question.tested),
            random_order=question.random_order,
        )
    return SeedsResult(
        data=data,
        protocol=protocol.kind,
        description=protocol.description,
        runs=tuple(runs),
        questions=found,
        ratings=_rating_errors(rivals, protocol.questions[0].split) if protocol.kind == "random" else None,
    )


def _rating_errors(rivals: Mapping[str, Scorer], split: EvalSplit) -> RatingErrors | None:
    """Errors of the baselines that predict ratings; of RatingSVD if none of the baselines does."""
    rated = split.target_ratings[~np.isnan(split.target_ratings)]
    if not len(rated) or np.isnan(split.known.ratings).all():
        return None
    predictors: dict[str, RatingPredictor] = {
        name: scorer for name, scorer in rivals.items() if isinstance(scorer, RatingPredictor)
    }
    if not predictors:
        predictors[RatingSVD().name] = RatingSVD().fit(split.known)
    return RatingErrors(
        num_ratings=len(rated),
        lowest=float(rated.min()),
        highest=float(rated.max()),
        by_model={name: rating_errors(split, predictor) for name, predictor in predictors.items()},
    )
