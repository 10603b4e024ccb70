"""Every kind of ranker, and which one a model gets. To add a kind, write its folder and name it in RANKERS."""

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
"""What may rank in place of the blend, which every model has. Where several are equally good, the blend comes first,
then the order of this tuple."""

BLEND: Final = "blend"
"""The `ranker.kind` that leaves the ranking to the blend."""
BEST: Final = "auto"
"""The `ranker.kind` that takes what is best on validation."""


@dataclass(frozen=True, kw_only=True)
class RankerChoice:
    """What ranks, and what validation says of it."""

    kind: str
    """BLEND, or a `Ranker.kind`."""
    trial: RankerTrial
    """Of that kind."""
    validation: Mapping[str, float]
    """Mean CHOICE_METRIC on validation by the kind of every ranker that was tried."""


def choose_ranker(towers: FrozenTowers, validation: HoldOut, blended: BlendChoice) -> RankerChoice:
    """Takes what `ranker.kind` asks for; BEST takes the first of the best on validation.

    The towers have been trained on the training part of `validation` alone, and `blended` was chosen on it.
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
