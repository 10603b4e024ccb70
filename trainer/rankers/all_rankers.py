"""Every kind of ranker, and the choice among them. To add a kind, write its folder and name it in RANKERS."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import structlog

from trainer.dataset.dataset import HoldOut
from trainer.rankers.base.frozen_towers import FrozenTowers
from trainer.rankers.base.ranker import Ranker, RankerTrial
from trainer.rankers.blend.choice import CHOICE_METRIC, BlendChoice
from trainer.rankers.ncf.ranker import NCF

log = structlog.get_logger()

RANKERS: tuple[Ranker, ...] = (NCF,)
"""Rankers that may replace the blend, which every model has. Ties on validation go to the blend, then in the order of
this tuple."""

BLEND: Final = "blend"
"""The `ranker.kind` that leaves the ranking to the blend."""
BEST: Final = "auto"
"""The `ranker.kind` that takes the best ranker on validation."""


@dataclass(frozen=True, kw_only=True)
class RankerChoice:
    """The chosen ranker, with its validation metrics."""

    kind: str
    """BLEND, or a `Ranker.kind`."""
    trial: RankerTrial
    """Trial of that kind."""
    validation: Mapping[str, float]
    """Mean CHOICE_METRIC on validation of every ranker that was tried, by kind."""


def choose_ranker(towers: FrozenTowers, validation: HoldOut, blended: BlendChoice) -> RankerChoice:
    """Takes the ranker that `ranker.kind` names; BEST takes the best on validation.

    The towers were trained only on the training part of `validation`, and `blended` was chosen on `validation`.
    """
    wanted = towers.config.ranker.kind
    trials = {BLEND: RankerTrial(metrics=blended.metrics, ranker=None)}
    trials |= {ranker.kind: ranker.try_out(towers, validation) for ranker in RANKERS if wanted in {BEST, ranker.kind}}
    tried = {kind: float(trial.metrics[CHOICE_METRIC].mean()) for kind, trial in trials.items()}
    for trial in trials.values():
        if trial.by_epoch:
            log.info(
                "ranker_fitted",
                best_epoch=trial.best_epoch,
                validation_ndcg={kind: round(ndcg, 4) for kind, ndcg in tried.items()},
                by_epoch=[round(ndcg, 4) for ndcg in trial.by_epoch],
            )
    kind = max(tried, key=tried.__getitem__) if wanted == BEST else wanted
    return RankerChoice(kind=kind, trial=trials[kind], validation=tried)
