"""The two towers together: what is trained, and how a score is made of two vectors."""

from __future__ import annotations

from torch import nn

from tandem.contract import names
from tandem.contract.features import FeatureSchema
from trainer.config import TowersConfig
from trainer.models.item_tower import ItemTower
from trainer.models.user_tower import UserTower


class TwoTowerModel(nn.Module):
    """Both towers, and the temperature their scores are divided by while training."""

    def __init__(self, config: TowersConfig, schema: FeatureSchema, *, num_items: int, num_users: int) -> None:
        super().__init__()
        self.item_tower = ItemTower(
            num_items=num_items,
            dim=config.embedding_dim,
            text_dim=schema.text_dim,
            num_categories=len(schema.item_categories),
            id_dropout=config.item_id_dropout,
            dropout=config.item_dropout,
            similarity=config.similarity,
        )
        self.user_tower = UserTower(
            dim=config.embedding_dim,
            history_length=schema.history_length,
            num_event_codes=len(names.EVENT_TYPES) + 1,
            num_layers=config.num_layers,
            num_heads=config.num_heads,
            dropout=config.dropout,
            feature_sizes=tuple(feature.num_codes for feature in schema.user_features),
            num_users=num_users if schema.user_ids else 0,
            similarity=config.similarity,
        )
        self.temperature = config.temperature if config.similarity == "cosine" else 1.0
