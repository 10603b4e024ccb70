"""Which ranker a model gets: the blend, NCF, or the better of both on validation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import structlog
import torch

from tandem.contract.features import Tensors, encode_index
from tandem.contract.vocabulary import MISSING_ROW
from trainer.config.train_config import TrainConfig
from trainer.dataset.dataset import Cut, Dataset, HoldOut, history_states
from trainer.evaluation.metrics import PerUser, metrics_per_user
from trainer.models.ncf import NcfRanker, NcfShape
from trainer.scoring.blend_choice import CHOICE_METRIC, BlendChoice, calibration
from trainer.scoring.candidate_ranking import (
    BATCH_USERS,
    Candidates,
    PairScores,
    RankedModel,
    candidates_of,
    score_candidates,
)
from trainer.scoring.ranks_by_model import ranks_of_targets
from trainer.scoring.scoring_model import ScoringModel
from trainer.training.fit_ranker import RankerFit, ValidateRanker, fit_ranker, run_ranker
from trainer.training.ranker_examples import ranker_examples
from trainer.vectors.faiss_index import nearest_items

log = structlog.get_logger()


@dataclass(frozen=True, kw_only=True)
class RankerChoice:
    """What ranks, and what validation says of it."""

    num_epochs: int | None
    """Epochs after which NCF was best; None where the blend ranks."""
    ncf: NcfRanker | None
    metrics: Mapping[str, PerUser]
    """Of the validation users, as served."""
    validation: Mapping[str, float]
    """Mean CHOICE_METRIC on validation of every ranker that was tried."""


def choose_ranker(towers: FrozenTowers, validation: HoldOut, blended: BlendChoice) -> RankerChoice:
    """Takes what `ranker.kind` asks for; "auto" takes NCF where it is better on validation.

    The towers have been trained on the training part of `validation` alone.
    """
    of_blend = float(blended.metrics[CHOICE_METRIC].mean())
    kind = towers.config.ranker.kind
    if kind == "blend":
        return RankerChoice(num_epochs=None, ncf=None, metrics=blended.metrics, validation={"blend": of_blend})
    fitted = towers.fit_ncf(validation, num_epochs=towers.config.ncf.max_epochs, validation=validation)
    metrics = towers.ncf_metrics(validation, fitted.ranker)
    tried = {"blend": of_blend, "ncf": float(metrics[CHOICE_METRIC].mean())}
    log.info(
        "ranker_fitted",
        best_epoch=fitted.best_epoch,
        validation_ndcg={name: round(ndcg, 4) for name, ndcg in tried.items()},
        by_epoch=[round(ndcg, 4) for ndcg in fitted.validation],
    )
    if kind == "auto" and tried["ncf"] <= of_blend:
        return RankerChoice(num_epochs=None, ncf=None, metrics=blended.metrics, validation=tried)
    return RankerChoice(num_epochs=fitted.best_epoch, ncf=fitted.ranker, metrics=metrics, validation=tried)


class FrozenTowers:
    """Trained towers, on which rankers are trained and measured."""

    def __init__(self, dataset: Dataset, model: ScoringModel, config: TrainConfig, device: torch.device) -> None:
        """`model` has the rows of `dataset`."""
        self.config = config
        self._dataset = dataset
        self._model = model
        self._device = device

    @cached_property
    def neighbours(self) -> npt.NDArray[np.int32] | None:
        """Content neighbours as the bundle will hold them; None without content."""
        if self._model.content_vectors is None:
            return None
        return nearest_items(self._model.content_vectors.astype(np.float32), self.config.content.num_neighbours)

    def fit_ncf(self, cut: Cut, *, num_epochs: int, validation: HoldOut | None = None) -> RankerFit:
        """NCF trained on what comes before the cut; with `validation` it stops early by the items held out there."""
        config, model = self.config, self._model
        examples = ranker_examples(self._dataset, cut, model, self.neighbours, config.ncf, seed=config.fit.seed)
        content_scale = 0.0
        if examples.candidates.profiles is not None and model.content_vectors is not None:
            content_scale = 1.0 / calibration(examples.candidates.profiles, model.content_vectors).std
        shape = NcfShape(
            dim=model.item_vectors.shape[1],
            num_items=len(self._dataset.catalogue),
            num_users=0 if model.user_vocabulary is None else len(self._dataset.user_ids),
            collaborative_scale=1.0 / config.towers.temperature if config.towers.similarity == "cosine" else 1.0,
            content_scale=content_scale,
        )
        torch.manual_seed(config.fit.seed)
        learned = self._dataset.popularity(cut.num_history_events) > 0
        return fit_ranker(
            examples,
            NcfRanker(config.ncf, shape).to(self._device),
            config.ncf,
            item_index=encode_index(np.where(learned, np.arange(len(learned)), MISSING_ROW)),
            seed=config.fit.seed,
            num_epochs=num_epochs,
            validate=None if validation is None else self._validation(validation),
        )

    def ncf_metrics(self, hold_out: HoldOut, ranker: NcfRanker) -> dict[str, PerUser]:
        """Metrics of each held-out user, ranked as served."""
        ranked = RankedModel(model=self._model, neighbours=self.neighbours, pair_scores=pair_scores_of(ranker))
        (ranks,) = ranks_of_targets(self._dataset, hold_out, ranked.score_users(self._dataset, hold_out))
        return metrics_per_user(ranks)

    def _validation(self, hold_out: HoldOut) -> ValidateRanker:
        """NDCG@10 by ranking the same candidates every time: the towers are frozen, so they are found once."""
        batches: list[tuple[Candidates, npt.NDArray[np.int64]]] = []
        for start in range(0, len(hold_out.users), BATCH_USERS):
            users = hold_out.users[start : start + BATCH_USERS]
            user_ids = [self._dataset.user_ids[user] for user in users]
            states = history_states(self._dataset, hold_out, users)
            found = candidates_of(self._model, self.neighbours, user_ids, states)
            is_target = found.present & (found.rows == hold_out.target_rows[start : start + len(users), None])
            batches.append((found, np.where(is_target.any(axis=1), is_target.argmax(axis=1), MISSING_ROW)))

        def validate(ranker: NcfRanker) -> float:
            ranks = []
            for found, columns in batches:
                scores = score_candidates(self._model, found, pair_scores_of(ranker))
                of_target = scores[np.arange(len(columns)), columns]
                better = (scores >= of_target[:, None]).sum(axis=1) - 1  # of equal scores the target comes last
                ranks.append(np.where(columns == MISSING_ROW, len(self._dataset.catalogue), better))
            return float(metrics_per_user(np.concatenate(ranks))[CHOICE_METRIC].mean())

        return validate


def pair_scores_of(ranker: NcfRanker) -> PairScores:
    """A ranker in PyTorch as it would score once exported."""
    ranker.eval()

    def pair_scores(tensors: Tensors) -> npt.NDArray[np.float32]:
        with torch.inference_mode():
            return np.asarray(run_ranker(ranker, tensors).cpu().numpy(), dtype=np.float32)

    return pair_scores
