"""The registered rankers. A new ranker is a module beside this one and a line here
(docs/contributing/add-a-ranker.md)."""

from __future__ import annotations

from typing import Final

from inference_server.model.rankers.blend import BlendRanker
from inference_server.model.rankers.onnx import OnnxRanker
from inference_server.model.rankers.ranker import Ranker

RANKERS: Final[tuple[type[Ranker], ...]] = (
    OnnxRanker,
    BlendRanker,
)
"""In the order in which a policy's `ranker: auto` prefers them."""
