"""The sources and rankers that policies may name, from the two registries."""

from __future__ import annotations

import functools

from inference_server.model.rankers.registry import RANKERS
from inference_server.policy.choices import Choices, SourceChoice
from inference_server.request.sources import two_tower
from inference_server.request.sources.registry import SOURCES


@functools.cache
def policy_choices() -> Choices:
    """The registered names. The two towers cannot be turned off: the other sources only add to them."""
    towers = SourceChoice(name=two_tower.NAME, num_candidates=two_tower.NUM_CANDIDATES, min_candidates=1)
    extra_sources = (SourceChoice(name=source.name, num_candidates=source.num_candidates) for source in SOURCES)
    return Choices((towers, *extra_sources), [ranker.name for ranker in RANKERS])
