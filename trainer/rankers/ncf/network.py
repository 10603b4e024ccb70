"""Neural collaborative filtering as a ranker: GMF and an MLP over a user and an item (He et al., WWW 2017).

It differs from the paper in two points. Users are vectors of the frozen user tower instead of ids, so it ranks for new
users, and reflects a click at once; if the towers read user ids, an embedding of the id is added. The last layer reads
the collaborative and the content score beside GMF and MLP, and begins with the collaborative score alone: before its
first step the ranker orders as the towers do.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from tandem.contract import names
from trainer.config.train_config import NcfConfig


@dataclass(frozen=True, kw_only=True)
class NcfShape:
    """Sizes and scales of the ranker that follow from the data."""

    dim: int
    """Width of user and item vectors."""
    num_items: int
    num_users: int
    """0 if the ranker reads no user ids."""
    collaborative_scale: float
    """Factor of the collaborative score: 1 / temperature of the towers."""
    content_scale: float
    """Factor of the content score: 1 / its standard deviation. 0 without content, which is then not read."""

    @property
    def arguments(self) -> tuple[str, ...]:
        """Tensors that the ranker reads, in the order of its parameters."""
        return (
            names.RANKER_USER_VECTOR,
            names.RANKER_ITEM_VECTOR,
            names.RANKER_ITEM_INDEX,
            names.RANKER_COLLABORATIVE_SCORE,
            *([names.RANKER_CONTENT_SCORE] if self.content_scale else []),
            *([names.RANKER_USER_INDEX] if self.num_users else []),
        )


class NcfRanker(nn.Module):
    """Scores (user, item) pairs."""

    def __init__(self, config: NcfConfig, shape: NcfShape) -> None:
        super().__init__()
        self.shape = shape
        self.item_id_dropout = config.item_id_dropout
        width = config.factors
        # Row 0 stands for an item or user without an id of its own, and adds nothing. All rows begin at zero: a row
        # that is never trained stays zero.
        self.gmf_item_embedding = _zero_embedding(shape.num_items, width)
        self.mlp_item_embedding = _zero_embedding(shape.num_items, width)
        self.gmf_item = nn.Linear(shape.dim, width, bias=False)
        self.gmf_user = nn.Linear(shape.dim, width, bias=False)
        self.mlp_item = nn.Linear(shape.dim, width, bias=False)
        self.mlp_user = nn.Linear(shape.dim, width, bias=False)
        self.gmf_user_embedding = _zero_embedding(shape.num_users, width) if shape.num_users else None
        self.mlp_user_embedding = _zero_embedding(shape.num_users, width) if shape.num_users else None
        layers: list[nn.Module] = []
        sizes = (2 * width, *config.hidden_sizes)
        for narrow, wide in zip(sizes[1:], sizes[:-1], strict=True):
            layers += [nn.Linear(wide, narrow), nn.ReLU(), nn.Dropout(config.dropout)]
        self.mlp = nn.Sequential(*layers)
        self.output = nn.Linear(width + sizes[-1], 1, bias=False)
        nn.init.zeros_(self.output.weight)
        self.collaborative_weight = nn.Parameter(torch.ones(()))
        self.content_weight = nn.Parameter(torch.zeros(())) if shape.content_scale else None

    def forward(  # noqa: PLR0917 - the tensors that the contract names
        self,
        user_vector: Tensor,
        item_vector: Tensor,
        item_index: Tensor,
        collaborative_score: Tensor,
        content_score: Tensor | None = None,
        user_index: Tensor | None = None,
    ) -> Tensor:
        """Vectors (pairs, dim) float32, scores (pairs,) float32, indices (pairs,) int64 -> (pairs,) float32."""
        if self.training and self.item_id_dropout:
            dropped = torch.rand(item_index.shape, device=item_index.device) < self.item_id_dropout
            item_index = item_index.masked_fill(dropped, 0)
        gmf_user, mlp_user = self.gmf_user(user_vector), self.mlp_user(user_vector)
        if self.gmf_user_embedding is not None and self.mlp_user_embedding is not None and user_index is not None:
            gmf_user = gmf_user + self.gmf_user_embedding(user_index)
            mlp_user = mlp_user + self.mlp_user_embedding(user_index)
        gmf = gmf_user * (self.gmf_item(item_vector) + self.gmf_item_embedding(item_index))
        mlp_item = self.mlp_item(item_vector) + self.mlp_item_embedding(item_index)
        hidden = self.mlp(torch.cat([mlp_user, mlp_item], dim=-1))
        scores: Tensor = self.output(torch.cat([gmf, hidden], dim=-1)).squeeze(-1)
        scores = scores + self.collaborative_weight * (self.shape.collaborative_scale * collaborative_score)
        if self.content_weight is not None and content_score is not None:
            scores = scores + self.content_weight * (self.shape.content_scale * content_score)
        return scores


def _zero_embedding(count: int, width: int) -> nn.Embedding:
    embedding = nn.Embedding(count + 1, width, padding_idx=0)
    nn.init.zeros_(embedding.weight)
    return embedding
