"""Trains one model: select on validation, choose blend and ranker there, refit. Test items are never read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import structlog
import torch

from tandem.contract.features import Tensors
from tandem.contract.vocabulary import Vocabulary
from trainer.compute import distributed
from trainer.compute.device import choose_device
from trainer.config.train_config import TrainConfig
from trainer.core.errors import DataError
from trainer.dataset.dataset import Cut, HoldOut
from trainer.evaluation.metrics import PerUser, mean_metrics, metrics_per_user
from trainer.features.encoded import Encoded
from trainer.features.objectives import choice_weights, target_weights
from trainer.models.two_tower import TwoTowerModel
from trainer.rankers.all_rankers import RankerChoice, choose_ranker
from trainer.rankers.base.frozen_towers import FrozenTowers
from trainer.rankers.base.ranker import FittedRanker
from trainer.rankers.blend.choice import CHOICE_METRIC, BlendChoice, choose_blend
from trainer.rankers.blend.settle import settle_sources
from trainer.scoring.ranks_by_model import model_ranks, popularity_ranks
from trainer.scoring.scoring_model import ScoringModel
from trainer.sources.all_sources import described_shares, fit_sources, reported_weights
from trainer.sources.base.source import FittedSource, Shares
from trainer.training.fit import FitInputs, FitResult, fit, unreported
from trainer.training.plan import TrainingPlan, leave_last_out_plan
from trainer.training.progress import EpochReport
from trainer.training.step import encode_items
from trainer.training.windows import training_windows

log = structlog.get_logger()


@dataclass(frozen=True, kw_only=True)
class Fitted:
    """A trained model with its validation metrics."""

    model: TwoTowerModel
    best_epoch: int
    interactions_per_second: float
    """Speed of the selection of epochs, without validation."""
    peak_memory_bytes: int
    """See `EpochReport.peak_memory_bytes`."""
    sources: Mapping[str, FittedSource]
    """The served sources, by name."""
    shares: Shares | None
    """Shares of the blend, chosen on validation; None if the two towers are the only source."""
    validation_by_weight: Mapping[str, Mapping[float, float]]
    """Validation NDCG@10 of every weight tried, by the key of its source; see `BlendChoice.by_weight`."""
    ranker_kind: str
    """See `RankerChoice.kind`."""
    ranker: FittedRanker | None
    """The ranker that replaces the blend; None if the blend ranks."""
    validation_by_ranker: Mapping[str, float]
    """Validation NDCG@10 of every kind of ranker tried."""
    validation: Mapping[str, PerUser]
    """Metrics of the model selected on validation, which the refit replaces, ranked as served."""
    validation_two_tower: Mapping[str, PerUser]
    """Metrics of the same model's two towers alone."""
    validation_by_source: Mapping[str, Mapping[str, PerUser]]
    """Metrics of each source of the blend alone; see `BlendChoice.by_source`."""
    validation_popularity: Mapping[str, PerUser]
    """Metrics of popularity."""

    @property
    def blend_weights(self) -> Mapping[str, float | None]:
        """Share of every source that a blend can have, by source key; see `BlendedSource.without`."""
        return reported_weights(self.shares)

    def validation_metrics(self) -> dict[str, float]:
        """Mean metrics by name, for the manifest and the registry."""
        parts = {
            "validation": self.validation,
            "validation/two_tower": self.validation_two_tower,
            "validation/popularity": self.validation_popularity,
            **{f"validation/{key}": metrics for key, metrics in self.validation_by_source.items()},
        }
        return {f"{part}/{name}": mean for part, values in parts.items() for name, mean in mean_metrics(values).items()}


@dataclass(frozen=True, kw_only=True)
class Selected:
    """The choices of validation, for a model that has seen only the training part."""

    fit: FitResult
    blend: BlendChoice
    ranker: RankerChoice
    config: TrainConfig
    """The configuration, with one value in place of each list that a source is fitted with."""


def select(encoded: Encoded, config: TrainConfig, *, on_epoch: Callable[[EpochReport], None]) -> Selected:
    """Trains on the training part and chooses epoch, blend and ranker on validation. Test items are not read.

    An exception of `on_epoch` ends the training. Raises DataError if no user has enough interactions to validate on.
    """
    plan = leave_last_out_plan(encoded)
    return _choose(plan, config, _select_towers(plan, config, on_epoch=on_epoch, checkpoint_path=None))


@dataclass(frozen=True, kw_only=True)
class FittedTowers:
    """The model that validation selected, and the model that is served."""

    selected: FitResult
    final: FitResult
    """The refit; the same as `selected` without one."""


def fit_towers(
    plan: TrainingPlan,
    config: TrainConfig,
    *,
    on_epoch: Callable[[EpochReport], None],
    checkpoints: Path | None = None,
) -> FittedTowers:
    """Selects the number of epochs on validation and refits on all events before the plan's cut.

    Every process of torchrun calls this; only process 0 does the later steps of a run. `checkpoints` is the folder for
    checkpoints; None writes none. Raises DataError if there are no users to validate on.
    """
    if plan.weights is not None:
        config = config.warm_started()
    selected = _select_towers(
        plan, config, on_epoch=on_epoch, checkpoint_path=checkpoints and checkpoints / "selection.pt"
    )
    if not config.fit.refit:
        return FittedTowers(selected=selected, final=selected)
    final = fit(
        _fit_inputs(plan.final, plan.cut, config, plan.weights),
        config,
        device=choose_device(config.fit.device),
        num_epochs=selected.best_epoch,
        validate=None,
        on_epoch=unreported,
        checkpoint_path=checkpoints and checkpoints / "refit.pt",
    )
    return FittedTowers(selected=selected, final=final)


def fit_plan(
    plan: TrainingPlan,
    config: TrainConfig,
    *,
    on_epoch: Callable[[EpochReport], None],
    checkpoints: Path | None = None,
) -> Fitted:
    """The served model: epochs, blend and ranker are chosen on validation, then everything is fitted again.

    See `fit_towers` for `checkpoints` and errors.
    """
    towers = fit_towers(plan, config, on_epoch=on_epoch, checkpoints=checkpoints)
    selected = _choose(plan, config, towers.selected)
    choice, ranked = selected.blend, selected.ranker
    final, cut = plan.final, plan.cut
    sources = fit_sources(final, cut, selected.config, choice.shares or {})
    ranker = ranked.trial.ranker
    if config.fit.refit and ranker is not None:
        model = scoring_model(towers.final.model, final, sources)
        ranker = ranker.refit(FrozenTowers(final.dataset, model, config, choose_device(config.fit.device)), cut)
    popularity = popularity_ranks(plan.selection.dataset, plan.validation)
    return Fitted(
        model=towers.final.model,
        best_epoch=towers.selected.best_epoch,
        interactions_per_second=towers.selected.interactions_per_second,
        peak_memory_bytes=max(towers.selected.peak_memory_bytes, towers.final.peak_memory_bytes),
        sources=sources,
        shares=choice.shares,
        validation_by_weight=choice.by_weight,
        ranker_kind=ranked.kind,
        ranker=ranker,
        validation_by_ranker=ranked.validation,
        validation=ranked.trial.metrics,
        validation_two_tower=choice.two_tower,
        validation_by_source=choice.by_source,
        validation_popularity=metrics_per_user(popularity),
    )


def _select_towers(
    plan: TrainingPlan, config: TrainConfig, *, on_epoch: Callable[[EpochReport], None], checkpoint_path: Path | None
) -> FitResult:
    encoded, validation = plan.selection, plan.validation
    if len(validation.users) == 0:
        raise DataError(
            "no user has enough interactions to validate on (leave-last-out needs users with three); bring more data"
        )
    if distributed.rank() == 0:
        log.info(
            "training_started",
            device=str(choose_device(config.fit.device)),
            processes=distributed.num_processes(),
            users=len(encoded.dataset.user_ids),
            items=len(encoded.dataset.catalogue),
            interactions=len(encoded.dataset.item_rows),
        )
    of_targets = target_weights(encoded.dataset, validation, config.objectives)
    return fit(
        _fit_inputs(encoded, validation, config, plan.weights),
        config,
        device=choose_device(config.fit.device),
        num_epochs=config.fit.max_epochs if config.fit.train_towers else 0,
        validate=lambda model: mean_metrics(two_tower_metrics(model, encoded, validation), of_targets),
        on_epoch=on_epoch,
        checkpoint_path=checkpoint_path,
    )


def _choose(plan: TrainingPlan, config: TrainConfig, selected: FitResult) -> Selected:
    """Chooses blend and ranker on validation."""
    encoded, validation = plan.selection, plan.validation
    config = settle_sources(encoded, validation, config)
    model = scoring_model(selected.model, encoded, fit_sources(encoded, validation, config))
    choice = choose_blend(encoded.dataset, validation, model, config)
    if choice.shares is not None:
        tried = {
            f"ndcg_by_{key}": {str(weight): round(ndcg, 4) for weight, ndcg in by_weight.items()}
            for key, by_weight in choice.by_weight.items()
        }
        each = {"two_tower": choice.two_tower, **choice.by_source}
        alone = {key: round(float(metrics[CHOICE_METRIC].mean()), 4) for key, metrics in each.items()}
        log.info("blend_chosen", **described_shares(choice.shares), **tried, alone=alone)
    towers = FrozenTowers(encoded.dataset, model, config, choose_device(config.fit.device))
    return Selected(fit=selected, blend=choice, ranker=choose_ranker(towers, validation, choice), config=config)


def two_tower_metrics(model: TwoTowerModel, encoded: Encoded, hold_out: HoldOut) -> dict[str, PerUser]:
    """Metrics of each held-out user by full ranking with the two towers alone."""
    return metrics_per_user(model_ranks(encoded.dataset, hold_out, scoring_model(model, encoded, {}), [None])[0])


def scoring_model(model: TwoTowerModel, encoded: Encoded, sources: Mapping[str, FittedSource]) -> ScoringModel:
    """A PyTorch model with these sources, which scores as its export would."""
    model.eval()
    device = next(model.parameters()).device
    with torch.inference_mode():
        item_tensors = {name: torch.from_numpy(array).to(device) for name, array in encoded.item_tensors.items()}
        rows = torch.arange(len(encoded.dataset.catalogue), device=device)
        item_vectors = encode_items(model, item_tensors, rows).cpu().numpy()

    def user_vectors(tensors: Tensors) -> npt.NDArray[np.float32]:
        with torch.inference_mode():
            vectors: torch.Tensor = model.user_tower(
                **{name: torch.from_numpy(array).to(device) for name, array in tensors.items()}
            )
            return np.asarray(vectors.cpu().numpy(), dtype=np.float32)

    return ScoringModel(
        schema=encoded.schema,
        item_vocabulary=encoded.dataset.catalogue.vocabulary,
        user_vocabulary=Vocabulary.from_ids(encoded.dataset.user_ids) if encoded.schema.user_ids else None,
        item_vectors=item_vectors,
        user_vectors=user_vectors,
        sources=sources,
        unavailable_rows=encoded.dataset.catalogue.unavailable_rows,
    )


def _fit_inputs(
    encoded: Encoded, cut: Cut, config: TrainConfig, weights: Mapping[str, torch.Tensor] | None
) -> FitInputs:
    dataset = encoded.dataset
    of_choices = choice_weights(dataset, config.objectives)
    return FitInputs(
        schema=encoded.schema,
        windows=training_windows(dataset, encoded.schema, cut.num_history_events, of_choices),
        item_tensors=encoded.item_tensors,
        popularity=dataset.popularity(cut.num_history_events),
        num_users=len(dataset.user_ids),
        weights=weights,
    )
