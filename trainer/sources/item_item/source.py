"""The item-item source of the blend."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Final

from tandem.contract import names
from tandem.contract.bundle import Bundle
from tandem.contract.bundle_contents import BundleParts
from tandem.contract.candidates import ITEM_ITEM_CANDIDATES
from tandem.contract.manifest import BlendSpec, Calibration
from trainer.config.train_config import TrainConfig
from trainer.dataset.dataset import Cut
from trainer.features.encoded import Encoded
from trainer.features.objectives import choice_weights
from trainer.sources.base.linear import FittedLinear, share_of_spec, share_with_decay, spec_of_share
from trainer.sources.base.settling import FitTrial
from trainer.sources.base.source import FittedSource, Share, ShareChoice, Shares, ShareTrial
from trainer.sources.item_item.fit import fit_item_item, fit_item_knn, settle_item_item

DECAY_USERS: Final = 1_000
"""Most validation users for the choice of the decay."""
DECAY_WEIGHTS: Final = (0.2, 0.5, 1.0)
"""Weights with which each decay is tried: beside a source that reads order, the best decay is another than alone."""


@dataclass(frozen=True)
class FittedItemItem(FittedLinear):
    """The strongest weights between items that are chosen together."""

    num_candidates: ClassVar[int] = ITEM_ITEM_CANDIDATES

    def write(self, parts: BundleParts) -> BundleParts:
        """Adds neighbours and weights."""
        return replace(parts, item_item=self.learned)


@dataclass(frozen=True)
class ItemItemSource:
    """Retrieval by the strongest weights of EDLAE, or by nearest neighbours in a large catalogue."""

    name: str = names.SOURCE_ITEM_ITEM
    key: str = "item_item"
    label: str = "item-item"
    without: float | None = 0.0

    def settle(self, trial: FitTrial, config: TrainConfig) -> TrainConfig:
        """Chooses regularisation, dropout and number of weights."""
        of_choices = choice_weights(trial.dataset, config.objectives)
        settled = settle_item_item(trial, config.item_item, choice_weights=of_choices)
        return config.model_copy(update={"item_item": settled})

    def fit(self, encoded: Encoded, cut: Cut, config: TrainConfig) -> FittedSource | None:
        """Fits EDLAE, above `item_item.max_items` nearest neighbours. None if that is 0."""
        if config.item_item.max_items == 0:
            return None
        dataset, num_events = encoded.dataset, cut.num_history_events
        of_choices = choice_weights(dataset, config.objectives)
        learned = fit_item_item(dataset, num_events, config.item_item, choice_weights=of_choices)
        if learned is None:
            learned = fit_item_knn(dataset, num_events, config.item_item, choice_weights=of_choices)
        return FittedItemItem(learned)

    def read(self, bundle: Bundle) -> FittedSource | None:
        """Neighbours and weights as the bundle holds them; None in a bundle without them."""
        blend = bundle.manifest.blend
        if bundle.item_item is None or blend is None:
            return None
        return FittedItemItem(bundle.item_item, share_of_spec(blend.item_item))

    def choose(self, trial: ShareTrial, shares: Shares, config: TrainConfig) -> ShareChoice:
        """Chooses the decay at a few weights, then the weight beside the sources chosen before."""
        by_decay = trial.with_users(DECAY_USERS).best(
            [
                {**shares, self.key: share_with_decay(weight, decay)}
                for decay in config.item_item.decays_events
                for weight in DECAY_WEIGHTS
            ],
            self.key,
        )
        share = by_decay.shares[self.key]
        tried = [{**shares, self.key: replace(share, weight=weight)} for weight in config.ranker.item_item_weights]
        return trial.best(tried, self.key)

    def is_served(self, share: Share) -> bool:
        """Only at a weight above 0: every worker holds 6 bytes for every neighbour of every item."""
        return share.weight > 0.0

    def share_of(self, spec: BlendSpec) -> Share | None:
        """None in a blend without the item-item source."""
        return share_of_spec(spec.item_item)

    def into(self, spec: BlendSpec, share: Share, calibration: Calibration) -> BlendSpec:
        """The weight is the source's share of the collaborative score."""
        return replace(spec, item_item=spec_of_share(share, calibration))


ITEM_ITEM: Final = ItemItemSource()
