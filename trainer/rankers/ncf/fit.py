"""Trains the NCF ranker on frozen towers: softmax over the chosen item and its negatives, early stopping on NDCG@10."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from tqdm import tqdm

from tandem.contract import names
from tandem.contract.features import Tensors
from trainer.config.train_config import NcfConfig
from trainer.rankers.ncf.examples import RankerExamples
from trainer.rankers.ncf.network import NcfRanker

ValidateRanker = Callable[[NcfRanker], float]
"""Validation NDCG@10 of the candidates in the ranker's order."""


@dataclass(frozen=True)
class RankerFit:
    """The best ranker of a fit, with its validation metrics."""

    ranker: NcfRanker
    best_epoch: int
    """0 if no epoch improved on the order of the towers."""
    validation: tuple[float, ...]
    """Validation NDCG@10 before the first epoch and after each; empty without validation."""


def fit_ranker(
    examples: RankerExamples,
    ranker: NcfRanker,
    config: NcfConfig,
    *,
    item_index: npt.NDArray[np.int64],
    seed: int,
    num_epochs: int,
    validate: ValidateRanker | None,
) -> RankerFit:
    """Trains a new ranker, in place, for at most `num_epochs`.

    `item_index` is (items,) int64, the id of each item in training: 0 for an item without interactions to learn from,
    whose own id would learn only that it is never chosen. With `validate` the best epoch's weights are returned, which
    may be the untrained weights; without, the last epoch's.
    """
    generator = np.random.default_rng(seed)
    device = ranker.collaborative_weight.device
    optimiser = torch.optim.AdamW(ranker.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay)
    validation = [validate(ranker.eval())] if validate else []
    best_epoch, best_weights = 0, copy.deepcopy(ranker.state_dict())
    for epoch in tqdm(range(1, num_epochs + 1), desc="training the ranker", unit="epoch"):
        ranker.train()
        order = generator.permutation(len(examples))
        for start in range(0, len(order), config.batch_size):
            batch = examples.draw(order[start : start + config.batch_size], config, generator)
            tensors = dict(batch.tensors)
            tensors[names.RANKER_ITEM_INDEX] = item_index[tensors[names.RANKER_ITEM_INDEX] - 1]
            scores = run_ranker(ranker, tensors).reshape(batch.present.shape)
            scores = scores.masked_fill(~torch.from_numpy(batch.present).to(device), float("-inf"))
            loss = F.cross_entropy(scores, torch.zeros(len(scores), dtype=torch.long, device=device))
            optimiser.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
        if validate is None:
            best_epoch = epoch
            continue
        validation.append(validate(ranker.eval()))
        if validation[-1] > validation[best_epoch]:
            best_epoch, best_weights = epoch, copy.deepcopy(ranker.state_dict())
        elif epoch - best_epoch >= config.patience:
            break
    if validate is not None:
        ranker.load_state_dict(best_weights)
    return RankerFit(ranker.eval(), best_epoch, tuple(validation))


def run_ranker(ranker: NcfRanker, tensors: Tensors) -> torch.Tensor:
    """Scores of pairs, (pairs,) float32 on the ranker's device, from the tensors that it reads."""
    device = ranker.collaborative_weight.device
    scores: torch.Tensor = ranker(
        **{name: torch.from_numpy(tensors[name]).to(device) for name in ranker.shape.arguments}
    )
    return scores
