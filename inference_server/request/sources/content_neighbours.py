"""Items whose content is nearest to the content of the newest items in the history."""

from __future__ import annotations

from typing import ClassVar

from inference_server.model.serving_model import ServingModel
from inference_server.request.flow.types import Encoded
from inference_server.request.sources.source import Source
from tandem.contract import names
from tandem.contract.candidates import CONTENT_NEIGHBOUR_CANDIDATES, CONTENT_NEIGHBOURS_OF, neighbour_rows
from tandem.contract.vocabulary import Rows


class ContentNeighboursSource(Source):
    """Reads the neighbours that the trainer found by content vectors."""

    name: ClassVar[str] = names.SOURCE_CONTENT_NEIGHBOURS
    num_candidates: ClassVar[int] = CONTENT_NEIGHBOUR_CANDIDATES

    def available(self, model: ServingModel) -> bool:
        """See `Source.available`."""
        return model.content is not None

    def propose(self, encoded: Encoded, num_candidates: int) -> Rows:
        """See `Source.propose`."""
        assert encoded.model.content is not None
        return neighbour_rows(
            encoded.model.content.neighbours, encoded.history_rows, num_candidates, num_events=CONTENT_NEIGHBOURS_OF
        )
