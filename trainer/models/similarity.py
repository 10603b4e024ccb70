"""Normalises a tower's vectors, so that a score is a dot product under either similarity."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from tandem.contract.manifest import Similarity


def normalise(vectors: Tensor, similarity: Similarity) -> Tensor:
    """Vectors (..., dim) of length 1 for "cosine", unchanged for "dot"."""
    return F.normalize(vectors, dim=-1) if similarity == "cosine" else vectors
