"""The items with the most interactions in the training data."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from inference_server.request.flow.types import Encoded
from inference_server.request.sources.source import Source
from tandem.contract import names
from tandem.contract.vocabulary import Rows


class PopularSource(Source):
    """The same candidates for everyone, from the bundle's list."""

    name: ClassVar[str] = names.SOURCE_POPULAR
    num_candidates: ClassVar[int] = 0

    def propose(self, encoded: Encoded, num_candidates: int) -> Rows:
        """See `Source.propose`."""
        return np.tile(encoded.model.catalogue.top_rows(num_candidates), (len(encoded.users), 1))
