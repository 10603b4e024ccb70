"""The sources that know pairs of items: what users choose together, and what they choose next."""

from __future__ import annotations

from typing import ClassVar

from inference_server.model.serving_model import ServingModel
from inference_server.request.flow.types import Encoded
from inference_server.request.sources.source import Source
from tandem.contract import names
from tandem.contract.candidates import (
    ITEM_ITEM_CANDIDATES,
    ITEM_ITEM_NEIGHBOURS_OF,
    SEQUENTIAL_CANDIDATES,
    best_rows,
    neighbour_rows,
)
from tandem.contract.vocabulary import Rows


class _PairsSource(Source):
    """See `tandem.contract.item_item`. Proposes neighbours of the newest items in the history, or the items with the
    highest scores: the bundle says which."""

    def available(self, model: ServingModel) -> bool:
        """See `Source.available`."""
        return self.name in model.linear

    def propose(self, encoded: Encoded, num_candidates: int) -> Rows:
        """See `Source.propose`."""
        source = encoded.model.linear[self.name]
        if source.spec.by_score:
            scores = encoded.linear.of_all_items(self.name)
            return best_rows(scores, encoded.linear.history_of(self.name), num_candidates)
        return neighbour_rows(
            source.weights.rows, encoded.history_rows, num_candidates, num_events=ITEM_ITEM_NEIGHBOURS_OF
        )


class ItemItemSource(_PairsSource):
    """Items that users chose along with those in the history."""

    name: ClassVar[str] = names.SOURCE_ITEM_ITEM
    num_candidates: ClassVar[int] = ITEM_ITEM_CANDIDATES


class SequentialSource(_PairsSource):
    """Items that users chose after those in the history."""

    name: ClassVar[str] = names.SOURCE_SEQUENTIAL
    num_candidates: ClassVar[int] = SEQUENTIAL_CANDIDATES
