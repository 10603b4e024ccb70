"""The sequential source of the blend."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Final

from tandem.contract import names
from tandem.contract.bundle import Bundle
from tandem.contract.bundle_contents import BundleParts
from tandem.contract.candidates import SEQUENTIAL_CANDIDATES
from tandem.contract.manifest import BlendSpec, Calibration
from trainer.config.train_config import TrainConfig
from trainer.dataset.dataset import Cut
from trainer.features.encoded import Encoded
from trainer.features.objectives import choice_weights
from trainer.sources.base.linear import FittedLinear, share_of_spec, share_with_decay, spec_of_share
from trainer.sources.base.settling import FitTrial, middle
from trainer.sources.base.source import FittedSource, Share, ShareChoice, Shares, ShareTrial
from trainer.sources.sequential.fit import fit_sequential, settle_sequential


@dataclass(frozen=True)
class FittedSequential(FittedLinear):
    """The strongest weights from items to those that follow them."""

    num_candidates: ClassVar[int] = SEQUENTIAL_CANDIDATES

    def write(self, parts: BundleParts) -> BundleParts:
        """Adds neighbours and weights."""
        return replace(parts, sequential=self.learned)


@dataclass(frozen=True)
class SequentialSource:
    """Retrieval by the strongest weights of the sequential linear model."""

    name: str = names.SOURCE_SEQUENTIAL
    key: str = "sequential"
    label: str = "sequential"
    without: float | None = 0.0

    def settle(self, trial: FitTrial, config: TrainConfig) -> TrainConfig:
        """Chooses decay, regularisation and number of weights."""
        of_choices = choice_weights(trial.dataset, config.objectives)
        settled = settle_sequential(trial, config.sequential, choice_weights=of_choices)
        return config.model_copy(update={"sequential": settled})

    def fit(self, encoded: Encoded, cut: Cut, config: TrainConfig) -> FittedSource | None:
        """Fits the closed form. None if `sequential.max_items` is 0."""
        if config.sequential.max_items == 0:
            return None
        learned = fit_sequential(
            encoded.dataset,
            cut.num_history_events,
            config.sequential,
            choice_weights=choice_weights(encoded.dataset, config.objectives),
        )
        return FittedSequential(learned)

    def read(self, bundle: Bundle) -> FittedSource | None:
        """Neighbours and weights as the bundle holds them; None in a bundle without them."""
        blend = bundle.manifest.blend
        if bundle.sequential is None or blend is None:
            return None
        return FittedSequential(bundle.sequential, share_of_spec(blend.sequential))

    def choose(self, trial: ShareTrial, shares: Shares, config: TrainConfig) -> ShareChoice:
        """Chooses the weight beside the two towers, with the decay of the fit."""
        decay_events = middle(config.sequential.decays_events)
        tried = [
            {**shares, self.key: share_with_decay(weight, decay_events)} for weight in config.ranker.sequential_weights
        ]
        return trial.best(tried, self.key)

    def is_served(self, share: Share) -> bool:
        """Only at a weight above 0: every worker holds 6 bytes for every neighbour of every item."""
        return share.weight > 0.0

    def share_of(self, spec: BlendSpec) -> Share | None:
        """None in a blend without the sequential source."""
        return share_of_spec(spec.sequential)

    def into(self, spec: BlendSpec, share: Share, calibration: Calibration) -> BlendSpec:
        """The weight is the source's share of what the item-item source leaves of the collaborative score."""
        return replace(spec, sequential=spec_of_share(share, calibration))


SEQUENTIAL: Final = SequentialSource()
