"""Trains one model: encode, select on validation, choose the blend there, refit, score the test items once."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import structlog
import torch

from tandem.contract.features import FeatureSchema, Tensors
from tandem.contract.item_item import ItemItem
from tandem.contract.vocabulary import Vocabulary
from trainer.config import TrainConfig
from trainer.data.prepare import PreparedData
from trainer.dataset import Dataset, HoldOut, leave_last_out, load_dataset
from trainer.device import choose_device
from trainer.errors import DataError
from trainer.evaluation.blending import BlendChoice, BlendWeights, calibrate, choose_blend
from trainer.evaluation.full_ranking import model_ranks, popularity_ranks
from trainer.evaluation.metrics import PerUser, bootstrap_mean, mean_metrics, metrics_per_user
from trainer.evaluation.scoring import ScoringModel
from trainer.features.content import content_vectors
from trainer.features.schema import build_schema, item_inputs, item_text
from trainer.features.text import embed_texts
from trainer.models.item_item import fit_item_item
from trainer.models.ncf import NcfRanker
from trainer.models.two_tower import TwoTowerModel
from trainer.settings import Settings
from trainer.training import distributed
from trainer.training.choose_ranker import FrozenTowers, RankerChoice, choose_ranker
from trainer.training.fit import FitInputs, FitResult, fit, unreported
from trainer.training.progress import EpochReport
from trainer.training.step import encode_items
from trainer.training.windows import training_windows

log = structlog.get_logger()


@dataclass(frozen=True, kw_only=True)
class Encoded:
    """A data set ready for the towers."""

    dataset: Dataset
    schema: FeatureSchema
    item_tensors: Tensors
    content_vectors: npt.NDArray[np.float16] | None
    """(items, content_dim) float16; None for a catalogue that says nothing of its items."""


@dataclass(frozen=True, kw_only=True)
class Trained:
    """A model with what was measured of it."""

    model: TwoTowerModel
    best_epoch: int
    interactions_per_second: float
    """While the epochs were selected, without validation."""
    peak_memory_bytes: int
    """See `EpochReport.peak_memory_bytes`."""
    item_item: ItemItem | None
    """The item-item source that is served; None where the blend has none."""
    blend_weights: BlendWeights | None
    """Chosen on validation; None where the two towers are the only source."""
    validation_by_content_weight: Mapping[float, float]
    """Validation NDCG@10 of every weight of content tried."""
    validation_by_item_item_weight: Mapping[float, float]
    """The same for the item-item source, without content."""
    ncf: NcfRanker | None
    """What ranks in place of the blend; None where the blend does."""
    validation_by_ranker: Mapping[str, float]
    """Validation NDCG@10 of every kind of ranker tried."""
    validation: Mapping[str, PerUser]
    """Of the model that was selected on validation, which the refit replaces, ranked as served."""
    validation_two_tower: Mapping[str, PerUser]
    """Of the same model's two towers alone."""
    validation_popularity: Mapping[str, PerUser]
    test: Mapping[str, PerUser]
    """Ranked as served: by NCF or the blend where there is one."""
    test_two_tower: Mapping[str, PerUser]
    test_popularity: Mapping[str, PerUser]

    @property
    def content_weight(self) -> float | None:
        """Share of content in the blend; None without content."""
        return (
            None if self.blend_weights is None or not self.validation_by_content_weight else self.blend_weights.content
        )

    @property
    def item_item_weight(self) -> float:
        """Share of the item-item source in the blend's collaborative score; 0 without it."""
        return 0.0 if self.blend_weights is None else self.blend_weights.item_item

    def metrics(self) -> dict[str, float]:
        """Means by name, for the manifest and the registry."""
        parts = {
            "validation": self.validation,
            "validation/two_tower": self.validation_two_tower,
            "validation/popularity": self.validation_popularity,
            "test": self.test,
            "test/two_tower": self.test_two_tower,
            "test/popularity": self.test_popularity,
        }
        return {f"{part}/{name}": mean for part, values in parts.items() for name, mean in mean_metrics(values).items()}


def encode(prepared: PreparedData, config: TrainConfig, settings: Settings) -> Encoded:
    """Reads the prepared data and turns catalogue and users into what the towers read."""
    dataset = load_dataset(prepared.directory)
    texts = [item_text(dataset.catalogue, row) for row in range(len(dataset.catalogue))]
    embeddings = embed_texts(
        texts, config.text, cache_dir=settings.data_dir / "embeddings", device=choose_device(config.fit.device)
    )
    schema = build_schema(dataset, config, text_dim=embeddings.shape[1])
    popularity = dataset.popularity(leave_last_out(dataset, skip=0).num_history_events)
    item_tensors = item_inputs(dataset.catalogue, schema, text_embeddings=embeddings, popularity=popularity)
    return Encoded(
        dataset=dataset,
        schema=schema,
        item_tensors=item_tensors,
        content_vectors=content_vectors(dataset.catalogue, embeddings, config.content),
    )


@dataclass(frozen=True, kw_only=True)
class Selected:
    """What validation chose, of a model that has seen the training part alone."""

    fit: FitResult
    blend: BlendChoice
    ranker: RankerChoice


def select(encoded: Encoded, config: TrainConfig, *, on_epoch: Callable[[EpochReport], None]) -> Selected:
    """Trains on the training part and chooses epoch, blend and ranker on validation. Test items are not read.

    What `on_epoch` raises ends the training. Raises DataError when no user has enough interactions to validate on.
    """
    return _choose(encoded, config, _select_towers(encoded, config, on_epoch=on_epoch, checkpoint_path=None))


@dataclass(frozen=True, kw_only=True)
class FittedTowers:
    """The model that validation selected, and the one that is served."""

    selected: FitResult
    final: FitResult
    """The refit; the same as `selected` without one."""


def fit_towers(
    encoded: Encoded,
    config: TrainConfig,
    *,
    on_epoch: Callable[[EpochReport], None],
    checkpoints: Path | None = None,
) -> FittedTowers:
    """Selects the number of epochs on validation and refits on train + validation.

    Every process of torchrun calls this; what follows is for process 0. `checkpoints` is the folder for checkpoints;
    without one there are none. Raises DataError when no user has enough interactions to validate on.
    """
    selected = _select_towers(
        encoded, config, on_epoch=on_epoch, checkpoint_path=checkpoints and checkpoints / "selection.pt"
    )
    if not config.fit.refit:
        return FittedTowers(selected=selected, final=selected)
    final = fit(
        _fit_inputs(encoded, leave_last_out(encoded.dataset, skip=0)),
        config,
        device=choose_device(config.fit.device),
        num_epochs=selected.best_epoch,
        validate=None,
        on_epoch=unreported,
        checkpoint_path=checkpoints and checkpoints / "refit.pt",
    )
    return FittedTowers(selected=selected, final=final)


def train(
    encoded: Encoded,
    config: TrainConfig,
    *,
    on_epoch: Callable[[EpochReport], None],
    checkpoints: Path | None = None,
) -> Trained:
    """Selects the number of epochs on validation, refits on train + validation, scores the test items once.

    See `fit_towers` for `checkpoints` and what is raised.
    """
    validation = leave_last_out(encoded.dataset, skip=1)
    test = leave_last_out(encoded.dataset, skip=0)
    fitted = fit_towers(encoded, config, on_epoch=on_epoch, checkpoints=checkpoints)
    selected = _choose(encoded, config, fitted.selected)
    choice, ranker = selected.blend, selected.ranker
    final, ncf = fitted.final, ranker.ncf
    item_item = _item_item(encoded, config, test) if choice.weights is not None and choice.weights.item_item else None
    model = scoring_model(final.model, encoded, item_item)
    towers = FrozenTowers(encoded.dataset, model, config, choose_device(config.fit.device))
    if config.fit.refit and ranker.num_epochs is not None:
        ncf = towers.fit_ncf(test, num_epochs=ranker.num_epochs, validate=False).ranker
    test_served, test_two_tower = _test_metrics(model, encoded, test, choice.weights)
    if ncf is not None:
        test_served = towers.ncf_metrics(test, ncf)
    trained = Trained(
        model=final.model,
        best_epoch=fitted.selected.best_epoch,
        interactions_per_second=fitted.selected.interactions_per_second,
        peak_memory_bytes=max(fitted.selected.peak_memory_bytes, final.peak_memory_bytes),
        item_item=item_item,
        blend_weights=choice.weights,
        validation_by_content_weight=choice.by_content_weight,
        validation_by_item_item_weight=choice.by_item_item_weight,
        ncf=ncf,
        validation_by_ranker=ranker.validation,
        validation=ranker.metrics,
        validation_two_tower=choice.two_tower,
        validation_popularity=metrics_per_user(popularity_ranks(encoded.dataset, validation)),
        test=test_served,
        test_two_tower=test_two_tower,
        test_popularity=metrics_per_user(popularity_ranks(encoded.dataset, test)),
    )
    log.info(
        "model_evaluated",
        best_epoch=trained.best_epoch,
        interactions_per_second=round(trained.interactions_per_second),
        peak_memory_mib=trained.peak_memory_bytes >> 20,
        blend_weights=trained.blend_weights and asdict(trained.blend_weights),
        ranker="blend" if trained.ncf is None else "ncf",
        **{f"test_{name}": str(bootstrap_mean(values)) for name, values in trained.test.items()},
        **{f"two_tower_{name}": str(bootstrap_mean(values)) for name, values in trained.test_two_tower.items()},
        **{f"popularity_{name}": str(bootstrap_mean(values)) for name, values in trained.test_popularity.items()},
    )
    return trained


def _select_towers(
    encoded: Encoded, config: TrainConfig, *, on_epoch: Callable[[EpochReport], None], checkpoint_path: Path | None
) -> FitResult:
    validation = leave_last_out(encoded.dataset, skip=1)
    if len(validation.users) == 0:
        raise DataError("no user has three interactions, so nothing can be validated; bring more data")
    if distributed.rank() == 0:
        log.info(
            "training_started",
            device=str(choose_device(config.fit.device)),
            processes=distributed.num_processes(),
            users=len(encoded.dataset.user_ids),
            items=len(encoded.dataset.catalogue),
            interactions=len(encoded.dataset.item_rows),
        )
    return fit(
        _fit_inputs(encoded, validation),
        config,
        device=choose_device(config.fit.device),
        num_epochs=config.fit.max_epochs,
        validate=lambda model: mean_metrics(two_tower_metrics(model, encoded, validation)),
        on_epoch=on_epoch,
        checkpoint_path=checkpoint_path,
    )


def _choose(encoded: Encoded, config: TrainConfig, selected: FitResult) -> Selected:
    """Chooses blend and ranker on validation."""
    validation = leave_last_out(encoded.dataset, skip=1)
    model = scoring_model(selected.model, encoded, _item_item(encoded, config, validation))
    choice = choose_blend(encoded.dataset, validation, model, config)
    if choice.weights is not None:
        log.info(
            "blend_chosen",
            **asdict(choice.weights),
            ndcg_by_content={str(weight): round(ndcg, 4) for weight, ndcg in choice.by_content_weight.items()},
            ndcg_by_item_item={str(weight): round(ndcg, 4) for weight, ndcg in choice.by_item_item_weight.items()},
        )
    towers = FrozenTowers(encoded.dataset, model, config, choose_device(config.fit.device))
    return Selected(fit=selected, blend=choice, ranker=choose_ranker(towers, validation, choice))


def two_tower_metrics(model: TwoTowerModel, encoded: Encoded, hold_out: HoldOut) -> dict[str, PerUser]:
    """Metrics of each held-out user under the two towers alone, by full ranking."""
    return metrics_per_user(model_ranks(encoded.dataset, hold_out, scoring_model(model, encoded), [None])[0])


def scoring_model(model: TwoTowerModel, encoded: Encoded, item_item: ItemItem | None = None) -> ScoringModel:
    """A model in PyTorch as it would score once exported, with the item-item source where it is given one."""
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
        content_vectors=encoded.content_vectors,
        item_item=item_item,
    )


def _item_item(encoded: Encoded, config: TrainConfig, hold_out: HoldOut) -> ItemItem | None:
    return fit_item_item(encoded.dataset, hold_out.num_history_events, config.item_item)


def _test_metrics(
    model: ScoringModel, encoded: Encoded, test: HoldOut, weights: BlendWeights | None
) -> tuple[dict[str, PerUser], dict[str, PerUser]]:
    """Metrics of each test user ranked as served, and by the two towers alone."""
    spec = None if weights is None else calibrate(encoded.dataset, test, model, weights)
    served, two_tower = map(metrics_per_user, model_ranks(encoded.dataset, test, model, [spec, None]))
    return served, two_tower


def _fit_inputs(encoded: Encoded, hold_out: HoldOut) -> FitInputs:
    dataset = encoded.dataset
    return FitInputs(
        schema=encoded.schema,
        windows=training_windows(dataset, encoded.schema, hold_out.num_history_events),
        item_tensors=encoded.item_tensors,
        popularity=dataset.popularity(hold_out.num_history_events),
        num_users=len(dataset.user_ids),
    )
