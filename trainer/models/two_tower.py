"""The two towers together: what is trained, and how a score is made of two vectors."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tandem.contract import names
from tandem.contract.features import FeatureSchema
from tandem.contract.manifest import Similarity
from trainer.config import TowersConfig
from trainer.models.item_tower import ItemTower
from trainer.models.user_tower import UserTower


class ItemEncoder(nn.Module):
    """The item tower with the similarity applied: what is exported and served."""

    def __init__(self, tower: ItemTower, similarity: Similarity) -> None:
        super().__init__()
        self.tower = tower
        self.similarity = similarity

    def forward(
        self, item_index: Tensor, text_embedding: Tensor | None = None, category_codes: Tensor | None = None
    ) -> Tensor:
        """See `ItemTower.forward`; vectors of length 1 for "cosine"."""
        return normalise(self.tower(item_index, text_embedding, category_codes), self.similarity)


class UserEncoder(nn.Module):
    """The user tower with the similarity applied: what is exported and served."""

    def __init__(self, tower: UserTower, similarity: Similarity) -> None:
        super().__init__()
        self.tower = tower
        self.similarity = similarity

    def forward(
        self,
        history_vectors: Tensor,
        history_event_codes: Tensor,
        history_ages: Tensor,
        user_feature_codes: Tensor | None = None,
        user_index: Tensor | None = None,
    ) -> Tensor:
        """See `UserTower.forward`; vectors of length 1 for "cosine"."""
        vectors = self.tower(history_vectors, history_event_codes, history_ages, user_feature_codes, user_index)
        return normalise(vectors, self.similarity)

    def sequence(
        self,
        history_vectors: Tensor,
        history_event_codes: Tensor,
        history_ages: Tensor,
        user_feature_codes: Tensor | None = None,
        user_index: Tensor | None = None,
    ) -> Tensor:
        """See `UserTower.sequence`; vectors of length 1 for "cosine"."""
        vectors = self.tower.sequence(
            history_vectors, history_event_codes, history_ages, user_feature_codes, user_index
        )
        return normalise(vectors, self.similarity)


class TwoTowerModel(nn.Module):
    """Both towers, and the temperature their scores are divided by while training."""

    def __init__(self, config: TowersConfig, schema: FeatureSchema, *, num_items: int, num_users: int) -> None:
        super().__init__()
        self.item_encoder = ItemEncoder(
            ItemTower(
                num_items=num_items,
                dim=config.embedding_dim,
                text_dim=schema.text_dim,
                num_categories=len(schema.item_categories),
                id_dropout=config.item_id_dropout,
                dropout=config.item_dropout,
            ),
            config.similarity,
        )
        self.user_encoder = UserEncoder(
            UserTower(
                dim=config.embedding_dim,
                history_length=schema.history_length,
                num_event_codes=len(names.EVENT_TYPES) + 1,
                num_layers=config.num_layers,
                num_heads=config.num_heads,
                dropout=config.dropout,
                feature_sizes=tuple(feature.num_codes for feature in schema.user_features),
                num_users=num_users if schema.user_ids else 0,
            ),
            config.similarity,
        )
        self.temperature = config.temperature if config.similarity == "cosine" else 1.0


def normalise(vectors: Tensor, similarity: Similarity) -> Tensor:
    """Vectors of length 1 for "cosine", unchanged for "dot"."""
    return F.normalize(vectors, dim=-1) if similarity == "cosine" else vectors


def scores(user_vectors: Tensor, item_vectors: Tensor) -> Tensor:
    """Dot products: (users, dim) and (items, dim) -> (users, items)."""
    return torch.matmul(user_vectors, item_vectors.T)
