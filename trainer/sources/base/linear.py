"""A fitted source whose scores are sums of weights between items, as serving computes them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from tandem.contract.bundle_contents import BundleParts
from tandem.contract.candidates import ITEM_ITEM_NEIGHBOURS_OF, best_rows, neighbour_rows
from tandem.contract.item_item import ItemItem, item_item_scores, num_events_read, reads_whole_history
from tandem.contract.manifest import Calibration, ItemItemSpec
from tandem.contract.vocabulary import Rows
from trainer.sources.base.calibration import calibration_of_scores
from trainer.sources.base.source import Histories, Share, SourceScores


@dataclass(frozen=True)
class FittedLinear(ABC):
    """The strongest weights between a model's items."""

    num_candidates: ClassVar[int]
    """Number of items that the source proposes."""
    learned: ItemItem
    share: Share | None = None
    """The share that it is served with; None while it is chosen."""

    @abstractmethod
    def write(self, parts: BundleParts) -> BundleParts:
        """Adds neighbours and weights."""

    def candidates(self, histories: Histories) -> Rows:
        """(users, num_candidates) int64, as serving proposes them."""
        if self.share is not None and self.share.by_score:
            assert self.share.decay_events is not None
            history_rows = histories.rows(num_events_read(self.share.decay_events))
            left_out = list(history_rows)
            if self.share.whole_history:
                left_out = [np.concatenate(both) for both in zip(history_rows, histories.older_rows, strict=True)]
            return best_rows(self.all_scores(histories, self.share), left_out, self.num_candidates)
        near = neighbour_rows(
            self.learned.rows,
            histories.rows(ITEM_ITEM_NEIGHBOURS_OF),
            self.num_candidates,
            num_events=ITEM_ITEM_NEIGHBOURS_OF,
        )
        return near[:, : self.num_candidates]

    def all_scores(self, histories: Histories, share: Share) -> npt.NDArray[np.float32]:
        """(users, items) float32, as serving computes them."""
        assert share.decay_events is not None
        return item_item_scores(
            self.learned,
            histories.rows(num_events_read(share.decay_events)),
            share.decay_events,
            older_rows=histories.older_rows if share.whole_history else (),
        )

    def scores(self, rows: Rows) -> SourceScores:
        """Sums of the history's weights for each item."""
        return lambda histories, share: self.all_scores(histories, share)[:, rows]

    def calibration(self, histories: Histories, share: Share) -> Calibration:
        """Calibration over all items."""
        return calibration_of_scores(self.all_scores(histories, share))


def share_with_decay(weight: float, decay_events: float) -> Share:
    """A share with this decay. If the oldest events still count, the source reads whole histories, and proposes items
    by their scores: the newest events are then no better than all others."""
    is_long = reads_whole_history(decay_events)
    return Share(weight, decay_events, whole_history=is_long, by_score=is_long)


def share_of_spec(spec: ItemItemSpec | None) -> Share | None:
    """The share that a part of a calibrated blend stands for."""
    if spec is None:
        return None
    return Share(spec.weight, spec.decay_events, whole_history=spec.whole_history, by_score=spec.by_score)


def spec_of_share(share: Share, calibration: Calibration) -> ItemItemSpec:
    """The part of a blend with this share and calibration."""
    assert share.decay_events is not None
    return ItemItemSpec(
        share.weight, share.decay_events, calibration, whole_history=share.whole_history, by_score=share.by_score
    )
