"""Items that users chose along with the newest items in the history, from the bundle's item-item source."""

from __future__ import annotations

from typing import ClassVar

from inference_server.model.serving_model import ServingModel
from inference_server.request.flow.types import Encoded
from inference_server.request.sources.source import Source
from tandem.contract import names
from tandem.contract.candidates import ITEM_ITEM_CANDIDATES, ITEM_ITEM_NEIGHBOURS_OF, neighbour_rows
from tandem.contract.vocabulary import Rows


class ItemItemSource(Source):
    """See `tandem.contract.item_item`."""

    name: ClassVar[str] = names.SOURCE_ITEM_ITEM
    num_candidates: ClassVar[int] = ITEM_ITEM_CANDIDATES

    def available(self, model: ServingModel) -> bool:
        """See `Source.available`."""
        return model.item_item is not None

    def propose(self, encoded: Encoded, num_candidates: int) -> Rows:
        """See `Source.propose`."""
        assert encoded.model.item_item is not None
        return neighbour_rows(
            encoded.model.item_item.rows, encoded.history_rows, num_candidates, num_events=ITEM_ITEM_NEIGHBOURS_OF
        )
