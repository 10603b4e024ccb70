"""NCF as a ranker: trained on frozen towers, measured as it is served, exported to ONNX."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import torch

from tandem.contract.features import Tensors, encode_index
from tandem.contract.vocabulary import MISSING_ROW
from trainer.compute.onnx_export import ExportedNetwork
from trainer.dataset.dataset import Cut, HoldOut, history_states
from trainer.evaluation.metrics import metrics_per_user
from trainer.rankers.base.frozen_towers import FrozenTowers
from trainer.rankers.base.ranker import RankerTrial
from trainer.rankers.blend.choice import CHOICE_METRIC
from trainer.rankers.ncf.examples import ranker_examples
from trainer.rankers.ncf.export import export_ncf
from trainer.rankers.ncf.fit import RankerFit, ValidateRanker, fit_ranker, run_ranker
from trainer.rankers.ncf.network import NcfRanker, NcfShape
from trainer.scoring.candidate_ranking import BATCH_USERS, Candidates, candidates_of, score_candidates
from trainer.sources.base.calibration import calibration_of_products
from trainer.sources.content.source import content_of


@dataclass(frozen=True)
class FittedNcf:
    """A trained NCF network."""

    network: NcfRanker
    num_epochs: int = 0
    """Number of epochs that it was trained for."""

    def pair_scores(self, tensors: Tensors) -> npt.NDArray[np.float32]:
        """Scores as the exported network would."""
        self.network.eval()
        with torch.inference_mode():
            return np.asarray(run_ranker(self.network, tensors).cpu().numpy(), dtype=np.float32)

    def refit(self, towers: FrozenTowers, cut: Cut) -> FittedNcf:
        """Trains for the same number of epochs."""
        fitted = fit_ncf(towers, cut, num_epochs=self.num_epochs)
        return FittedNcf(fitted.ranker, fitted.best_epoch)

    def export(self, path: Path) -> ExportedNetwork:
        """Writes the network to `path`; moves it to the CPU."""
        return export_ncf(self.network, path)


@dataclass(frozen=True)
class Ncf:
    """See `network.NcfRanker`; [ncf] of the configuration has its settings."""

    kind: str = "ncf"

    def try_out(self, towers: FrozenTowers, validation: HoldOut) -> RankerTrial:
        """Trains with early stopping on the items that `validation` holds out."""
        fitted = fit_ncf(towers, validation, num_epochs=towers.config.ncf.max_epochs, validation=validation)
        ranker = FittedNcf(fitted.ranker, fitted.best_epoch)
        return RankerTrial(
            metrics=towers.metrics(validation, ranker.pair_scores),
            ranker=ranker,
            by_epoch=fitted.validation,
            best_epoch=fitted.best_epoch,
        )


NCF: Final = Ncf()


def fit_ncf(towers: FrozenTowers, cut: Cut, *, num_epochs: int, validation: HoldOut | None = None) -> RankerFit:
    """Trains NCF on the events before the cut; with `validation`, stops early on the items that it holds out."""
    dataset, model, config = towers.dataset, towers.model, towers.config
    examples = ranker_examples(dataset, cut, model, config.ncf, seed=config.fit.seed)
    content = content_of(model.sources)
    content_scale = 0.0
    if examples.candidates.profiles is not None and content is not None:
        content_scale = 1.0 / calibration_of_products(examples.candidates.profiles, content.vectors).std
    shape = NcfShape(
        dim=model.item_vectors.shape[1],
        num_items=len(dataset.catalogue),
        num_users=0 if model.user_vocabulary is None else len(dataset.user_ids),
        collaborative_scale=1.0 / config.towers.temperature if config.towers.similarity == "cosine" else 1.0,
        content_scale=content_scale,
    )
    torch.manual_seed(config.fit.seed)
    learned = dataset.popularity(cut.num_history_events) > 0
    return fit_ranker(
        examples,
        NcfRanker(config.ncf, shape).to(towers.device),
        config.ncf,
        item_index=encode_index(np.where(learned, np.arange(len(learned)), MISSING_ROW)),
        seed=config.fit.seed,
        num_epochs=num_epochs,
        validate=None if validation is None else _validation(towers, validation),
    )


def _validation(towers: FrozenTowers, hold_out: HoldOut) -> ValidateRanker:
    """NDCG@10 of a ranker. The towers are frozen, so the candidates are the same every time and found once."""
    batches: list[tuple[Candidates, npt.NDArray[np.int64]]] = []
    for start in range(0, len(hold_out.users), BATCH_USERS):
        users = hold_out.users[start : start + BATCH_USERS]
        user_ids = [towers.dataset.user_ids[user] for user in users]
        states = history_states(towers.dataset, hold_out, users)
        found = candidates_of(towers.model, user_ids, states)
        is_target = found.present & (found.rows == hold_out.target_rows[start : start + len(users), None])
        batches.append((found, np.where(is_target.any(axis=1), is_target.argmax(axis=1), MISSING_ROW)))

    def validate(ranker: NcfRanker) -> float:
        ranks = []
        for found, columns in batches:
            scores = score_candidates(towers.model, found, FittedNcf(ranker).pair_scores)
            target_scores = scores[np.arange(len(columns)), columns]
            better = (scores >= target_scores[:, None]).sum(axis=1) - 1  # the target loses every tie
            ranks.append(np.where(columns == MISSING_ROW, len(towers.dataset.catalogue), better))
        return float(metrics_per_user(np.concatenate(ranks))[CHOICE_METRIC].mean())

    return validate
