"""The item tower: text, categories and id of an item -> its vector."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tandem.contract.manifest import Similarity
from trainer.models.similarity import normalise


class ItemTower(nn.Module):
    """Sums the embeddings of an item's id, text and categories, and normalises the sum.

    A missing part adds nothing: an item without text, or an item that was never trained on (index 0), gets its vector
    from the remaining parts. Training drops ids to the out-of-vocabulary row at random, so that the row is trained and
    the other parts learn to represent an item alone (DropoutNet, Volkovs et al., NeurIPS 2017).
    """

    def __init__(
        self,
        *,
        num_items: int,
        dim: int,
        text_dim: int,
        num_categories: int,
        id_dropout: float,
        dropout: float,
        similarity: Similarity,
    ) -> None:
        """`text_dim` and `num_categories` are 0 if the catalogue has no text or no categories."""
        super().__init__()
        self.id_embedding = nn.Embedding(num_items + 1, dim)
        self.text_projection = nn.Linear(text_dim, dim, bias=False) if text_dim else None
        self.category_embedding = nn.Embedding(num_categories + 1, dim, padding_idx=0) if num_categories else None
        self.norm = nn.LayerNorm(dim)
        self.dropout = nn.Dropout(dropout)
        self.id_dropout = id_dropout
        self.similarity: Similarity = similarity
        nn.init.normal_(self.id_embedding.weight, std=0.02)
        if self.category_embedding is not None:
            nn.init.normal_(self.category_embedding.weight, std=0.02)
            with torch.no_grad():
                self.category_embedding.weight[0].zero_()

    def forward(
        self, item_index: Tensor, text_embedding: Tensor | None = None, category_codes: Tensor | None = None
    ) -> Tensor:
        """Takes (items,) int64, (items, text_dim) float32, (items, categories) int64; returns (items, dim) float32."""
        if self.training and self.id_dropout:
            dropped = torch.rand(item_index.shape, device=item_index.device) < self.id_dropout
            item_index = item_index.masked_fill(dropped, 0)
        vector: Tensor = self.id_embedding(item_index)
        if self.text_projection is not None and text_embedding is not None:
            vector = vector + self.text_projection(text_embedding)
        if self.category_embedding is not None and category_codes is not None:
            count = (category_codes != 0).sum(dim=1, keepdim=True).clamp(min=1)
            vector = vector + self.category_embedding(category_codes).sum(dim=1) / count
        return normalise(self.dropout(self.norm(vector)), self.similarity)
