"""The bundle's hybrid blend, or the blend of a policy that sets another content weight."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar, Self

import numpy as np

from inference_server.model.engine.expectation import expected_non_tower_scores
from inference_server.model.rankers.ranker import CONTENT, ITEM_ITEM, SEQUENTIAL, RankerBatch, Scores
from tandem.contract.bundle import Bundle
from tandem.contract.manifest import BlendSpec
from tandem.contract.ranking import blend


class BlendRanker:
    """Weighs calibrated scores, see `tandem.contract.ranking`. Arithmetic alone, so it neither fails nor runs long."""

    name: ClassVar[str] = "blend"
    runs_long: ClassVar[bool] = False

    def __init__(self, spec: BlendSpec) -> None:
        self._spec = spec
        self._by_content_weight: dict[float, BlendRanker] = {}
        content = {CONTENT} if spec.content_weight > 0.0 else set()
        item_item = {ITEM_ITEM} if spec.item_item is not None else set()
        sequential = {SEQUENTIAL} if spec.sequential is not None else set()
        self.reads = frozenset(content | item_item | sequential)

    @classmethod
    def open(cls, bundle: Bundle) -> Self | None:
        """See `Ranker.open`."""
        return None if bundle.manifest.blend is None else cls(bundle.manifest.blend)

    def with_content_weight(self, content_weight: float) -> BlendRanker:
        """The same calibration with another weight. Equal weights give the same object, so their users are ranked
        together."""
        ranker = self._by_content_weight.get(content_weight)
        if ranker is None:
            # A bundle without content has no scores for the weight.
            weight = content_weight if self._spec.content is not None else 0.0
            ranker = BlendRanker(replace(self._spec, content_weight=weight))
            self._by_content_weight[content_weight] = ranker
        return ranker

    def score(self, batch: RankerBatch) -> Scores:
        """See `Ranker.score`."""
        others = batch.content, self._spec, batch.item_item, batch.sequential
        scores = blend(batch.collaborative, *others)
        if batch.unknown is not None:
            non_tower_scores = blend(np.zeros_like(batch.collaborative), *others)
            expected = expected_non_tower_scores(batch.collaborative, non_tower_scores, batch.unknown.comparable)
            cells = batch.unknown.cells
            scores[cells] += expected[cells] - non_tower_scores[cells]
        return scores

    def parts(self, scores: Scores) -> tuple[tuple[str, Scores], ...]:  # noqa: ARG002 - the inputs explain the blend
        """See `Ranker.parts`."""
        return ()
