"""Test metrics of a model as it is served, beside its two towers alone and the baselines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import structlog
from tqdm import tqdm

from tandem.contract.bundle import Bundle
from tandem.contract.manifest import BlendSpec
from tandem.ops.onnx_session import OnnxSession
from trainer.baselines.all_baselines import all_baselines
from trainer.baselines.baseline import Baseline
from trainer.baselines.popularity import Popularity
from trainer.baselines.tuning import tune
from trainer.dataset.eval_split import EvalSplit, leave_last_out_split
from trainer.evaluation.comparison import SEGMENT_METRIC, Comparison, compare
from trainer.evaluation.evaluation import FULL_RANKING, SAMPLED, Evaluation
from trainer.evaluation.metrics import CUTOFF, HELD_OUT_METRICS, ranking_metrics
from trainer.features.encoded import Encoded
from trainer.rankers.blend.choice import calibrate
from trainer.scoring.candidate_ranking import RankedModel
from trainer.scoring.full_evaluation import evaluate
from trainer.scoring.full_ranking import rank_split
from trainer.scoring.sampled_evaluation import evaluate_sampled
from trainer.scoring.scorer import Scorer
from trainer.scoring.scoring_model import ScoringModel
from trainer.scoring.served_scorers import ModelScorer, RankedModelScorer, ServedScorer
from trainer.sources.all_sources import described_shares
from trainer.training.plan import TrainingPlan
from trainer.training.train import Fitted, scoring_model

log = structlog.get_logger()

BaselineChoice = Literal["auto", "all", "tuned", "popularity"]
"""Baselines that a run is compared with. "auto": all up to AUTO_MAX_ITEMS items, else popularity. "tuned": all, with
hyperparameters that validation chose."""
AUTO_MAX_ITEMS = 5_000
"""Up to this many items all baselines take seconds; EASE inverts a matrix as wide as the catalogue, at cubic cost."""
SERVED = "as served"
TWO_TOWERS = "two towers alone"


@dataclass(frozen=True, kw_only=True)
class TestResult:
    """Metrics on the test items of a model and of its baselines."""

    __test__ = False  # pytest would collect the class by its name

    split: EvalSplit
    comparison: Comparison
    """The model as served comes first, and is compared with the best baseline."""
    scorers: dict[str, Scorer]
    """Every scorer by name, in the order of the comparison."""

    @property
    def served(self) -> Evaluation:
        """The model as it is served."""
        return self.comparison.evaluations[0]

    @property
    def two_towers(self) -> Evaluation:
        """The model's two towers alone; the same as `served` if nothing else ranks."""
        return self._named(TWO_TOWERS) or self.served

    @property
    def popularity(self) -> Evaluation:
        """The popularity baseline, which is part of every choice of baselines."""
        popularity = self._named(Popularity.name)
        assert popularity is not None
        return popularity

    def metrics(self) -> dict[str, float]:
        """Mean metrics by name, for the manifest and the registry."""
        measured = {"test": self.served, "test/two_tower": self.two_towers, "test/popularity": self.popularity}
        return {f"{key}/{name}": measured[key].means()[name] for key in measured for name in HELD_OUT_METRICS}

    def _named(self, name: str) -> Evaluation | None:
        return next((evaluation for evaluation in self.comparison.evaluations if evaluation.name == name), None)


def baselines_for(encoded: Encoded, choice: BaselineChoice, validation: EvalSplit | None = None) -> list[Baseline]:
    """The baselines that `choice` means for a data set.

    "tuned" chooses hyperparameters by SEGMENT_METRIC on `validation`; None: the validation split of leave-last-out.
    """
    num_items = len(encoded.dataset.catalogue)
    if choice == "popularity" or (choice == "auto" and num_items > AUTO_MAX_ITEMS):
        return [Popularity()]
    chosen = None
    if choice == "tuned":
        split = leave_last_out_split(encoded.dataset, skip=1) if validation is None else validation
        chosen = tune(split, encoded.text_embeddings(), _quality)
    return all_baselines(encoded.dataset, encoded.text_embeddings(), chosen)


def fitted_scorers(fitted: Fitted, plan: TrainingPlan, split: EvalSplit) -> dict[str, Scorer]:
    """Scorers of a freshly trained model: as it would be served, and its two towers alone if that differs."""
    model = scoring_model(fitted.model, plan.final, fitted.sources)
    blend = ranked = None
    if fitted.shares is not None:
        blend = calibrate(plan.final.dataset, plan.cut, model, fitted.shares)
    if fitted.ranker is not None:
        ranked = RankedModel(model=model, pair_scores=fitted.ranker.pair_scores)
    return _model_scorers(model, blend, ranked, split)


def measure(fitted: Fitted, plan: TrainingPlan, baselines: Sequence[Baseline]) -> TestResult:
    """Evaluates a model, freshly trained by a leave-last-out plan, on the leave-last-out test items."""
    encoded = plan.final
    split = leave_last_out_split(encoded.dataset, skip=0)
    scorers = {**fitted_scorers(fitted, plan, split), **fitted_baselines(baselines, split)}
    result = _result(split, scorers, evaluate_all(scorers, split, encoded, FULL_RANKING))
    log.info(
        "model_evaluated",
        best_epoch=fitted.best_epoch,
        interactions_per_second=round(fitted.interactions_per_second),
        peak_memory_mib=fitted.peak_memory_bytes >> 20,
        blend_weights=fitted.shares and described_shares(fitted.shares),
        ranker=fitted.ranker_kind,
        **{
            f"{label}_{metric}": str(result.comparison.intervals[evaluation.name][metric])
            for label, evaluation in (
                ("test", result.served),
                ("two_tower", result.two_towers),
                ("popularity", result.popularity),
            )
            for metric in HELD_OUT_METRICS
        },
    )
    return result


def measure_bundle(
    bundle: Bundle, encoded: Encoded, baselines: Sequence[Baseline], *, sampled: bool = False
) -> TestResult:
    """Evaluates a bundle, which may be older than the data, on the leave-last-out test items.

    `sampled` ranks by 1+99 instead of full ranking.
    """
    split = leave_last_out_split(encoded.dataset, skip=0)
    model = ScoringModel.of_bundle(bundle, OnnxSession(bundle.user_tower))
    ranked = None if bundle.ranker is None else RankedModel(model=model, pair_scores=OnnxSession(bundle.ranker))
    scorers = {**_model_scorers(model, bundle.manifest.blend, ranked, split), **fitted_baselines(baselines, split)}
    return _result(split, scorers, evaluate_all(scorers, split, encoded, SAMPLED if sampled else FULL_RANKING))


def fitted_baselines(baselines: Sequence[Baseline], split: EvalSplit) -> dict[str, Scorer]:
    """Scorers of the baselines, fitted on the known interactions of `split`, by name."""
    return {
        baseline.name: baseline.fit(split.known)
        for baseline in tqdm(baselines, desc="fitting baselines", unit="baseline")
    }


def evaluate_all(scorers: Mapping[str, Scorer], split: EvalSplit, encoded: Encoded, protocol: str) -> list[Evaluation]:
    """Evaluates each scorer by FULL_RANKING or SAMPLED, in the order of `scorers`."""
    evaluations = []
    for name, scorer in tqdm(scorers.items(), desc=f"{split.name} items, {protocol}", unit="model"):
        if protocol == SAMPLED:
            evaluations.append(evaluate_sampled(split, scorer, encoded.dataset, name=name))
        else:
            evaluations.append(evaluate(split, scorer, name=name, content_vectors=encoded.content_vectors))
    return evaluations


def _model_scorers(
    model: ScoringModel, blend: BlendSpec | None, ranked: RankedModel | None, split: EvalSplit
) -> dict[str, Scorer]:
    """An ONNX ranker, if there is one, ranks instead of the blend."""
    ranker = ModelScorer(split.known, model, blend) if ranked is None else RankedModelScorer(split.known, ranked)
    scorers: dict[str, Scorer] = {SERVED: ServedScorer(split.known, ranker)}
    if ranked is not None or blend is not None:
        scorers[TWO_TOWERS] = ModelScorer(split.known, model, None)
    return scorers


def _result(split: EvalSplit, scorers: dict[str, Scorer], evaluations: Sequence[Evaluation]) -> TestResult:
    return TestResult(split=split, comparison=compare(evaluations, baseline=best_of(evaluations[1:])), scorers=scorers)


def best_of(evaluations: Sequence[Evaluation], metric: str = SEGMENT_METRIC) -> str:
    """Name of the evaluation with the highest `metric`. Two towers alone are skipped: they are part of a model."""
    rivals = [evaluation for evaluation in evaluations if TWO_TOWERS not in evaluation.name]
    return max(rivals, key=lambda evaluation: evaluation.means()[metric]).name


def _quality(split: EvalSplit, scorer: Scorer) -> float:
    ranks = rank_split(split, scorer).ranks
    return float(ranking_metrics(ranks, split.target_offsets, (CUTOFF,))[SEGMENT_METRIC].mean())
