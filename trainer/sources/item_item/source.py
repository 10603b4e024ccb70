"""The item-item source of the blend."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import numpy.typing as npt

from tandem.contract import names
from tandem.contract.bundle import Bundle
from tandem.contract.bundle_contents import BundleParts
from tandem.contract.candidates import ITEM_ITEM_CANDIDATES, ITEM_ITEM_NEIGHBOURS_OF, neighbour_rows
from tandem.contract.item_item import ItemItem, item_item_scores, num_events_read
from tandem.contract.manifest import BlendSpec, Calibration, ItemItemSpec
from tandem.contract.vocabulary import Rows
from trainer.config.train_config import TrainConfig
from trainer.dataset.dataset import Cut
from trainer.features.encoded import Encoded
from trainer.features.objectives import choice_weights
from trainer.sources.base.calibration import calibration_of_scores
from trainer.sources.base.source import FittedSource, Histories, Share, ShareChoice, Shares, ShareTrial, SourceScores
from trainer.sources.item_item.fit import fit_item_item

DECAY_USERS: Final = 5_000
"""Most validation users for the choice of the decay."""


@dataclass(frozen=True)
class FittedItemItem:
    """The strongest weights between a model's items."""

    learned: ItemItem

    def candidates(self, histories: Histories) -> Rows:
        """(users, ITEM_ITEM_CANDIDATES) int64."""
        near = neighbour_rows(
            self.learned.rows,
            histories.rows(ITEM_ITEM_NEIGHBOURS_OF),
            ITEM_ITEM_CANDIDATES,
            num_events=ITEM_ITEM_NEIGHBOURS_OF,
        )
        return near[:, :ITEM_ITEM_CANDIDATES]

    def all_scores(self, histories: Histories, share: Share) -> npt.NDArray[np.float32]:
        """(users, items) float32, as serving computes them."""
        assert share.decay_events is not None
        return item_item_scores(self.learned, histories.rows(num_events_read(share.decay_events)), share.decay_events)

    def scores(self, rows: Rows) -> SourceScores:
        """Sums of the history's weights for each item."""
        return lambda histories, share: self.all_scores(histories, share)[:, rows]

    def calibration(self, histories: Histories, share: Share) -> Calibration:
        """Calibration over all items."""
        return calibration_of_scores(self.all_scores(histories, share))

    def write(self, parts: BundleParts) -> BundleParts:
        """Adds neighbours and weights."""
        return replace(parts, item_item=self.learned)


@dataclass(frozen=True)
class ItemItemSource:
    """Retrieval by the strongest weights of EASE."""

    name: str = names.SOURCE_ITEM_ITEM
    key: str = "item_item"
    label: str = "item-item"
    without: float | None = 0.0

    def fit(self, encoded: Encoded, cut: Cut, config: TrainConfig) -> FittedSource | None:
        """Fits EASE. None above `item_item.max_items`."""
        learned = fit_item_item(
            encoded.dataset,
            cut.num_history_events,
            config.item_item,
            choice_weights=choice_weights(encoded.dataset, config.objectives),
        )
        return None if learned is None else FittedItemItem(learned)

    def read(self, bundle: Bundle) -> FittedSource | None:
        """Neighbours and weights as the bundle holds them; None in a bundle without them."""
        return None if bundle.item_item is None else FittedItemItem(bundle.item_item)

    def choose(self, trial: ShareTrial, shares: Shares, config: TrainConfig) -> ShareChoice:
        """Chooses the decay with this source alone, then its weight beside the two towers."""
        alone = trial.with_users(DECAY_USERS).best(
            [{self.key: Share(1.0, decay)} for decay in config.item_item.decays_events], self.key
        )
        share = alone.shares[self.key]
        tried = [{**shares, self.key: replace(share, weight=weight)} for weight in config.ranker.item_item_weights]
        return trial.best(tried, self.key)

    def is_served(self, share: Share) -> bool:
        """Only at a weight above 0: every worker holds 6 bytes for every neighbour of every item."""
        return share.weight > 0.0

    def share_of(self, spec: BlendSpec) -> Share | None:
        """None in a blend without the item-item source."""
        return None if spec.item_item is None else Share(spec.item_item.weight, spec.item_item.decay_events)

    def into(self, spec: BlendSpec, share: Share, calibration: Calibration) -> BlendSpec:
        """The weight is the source's share of the collaborative score."""
        assert share.decay_events is not None
        return replace(spec, item_item=ItemItemSpec(share.weight, share.decay_events, calibration))


ITEM_ITEM: Final = ItemItemSource()
