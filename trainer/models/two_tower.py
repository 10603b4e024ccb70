"""The two towers as a model to train."""

from __future__ import annotations

from torch import nn

from tandem.contract import names
from tandem.contract.features import FeatureSchema
from trainer.config.train_config import TowersConfig
from trainer.models.history_encoder import HistoryEncoder, MeanEncoder, TransformerEncoder
from trainer.models.item_tower import ItemTower
from trainer.models.user_tower import UserTower


class TwoTowerModel(nn.Module):
    """Both towers, and the temperature that divides their scores in training."""

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
            _encoder(config, schema.history_length),
            dim=config.embedding_dim,
            num_event_codes=len(names.EVENT_TYPES) + 1,
            feature_sizes=tuple(feature.num_codes for feature in schema.user_features),
            num_users=num_users if schema.user_ids else 0,
            similarity=config.similarity,
        )
        self.temperature = config.temperature if config.similarity == "cosine" else 1.0


def _encoder(config: TowersConfig, history_length: int) -> HistoryEncoder:
    if config.user_tower == "mean":
        return MeanEncoder(dim=config.embedding_dim, dropout=config.dropout)
    return TransformerEncoder(
        dim=config.embedding_dim,
        history_length=history_length,
        num_layers=config.num_layers,
        num_heads=config.num_heads,
        dropout=config.dropout,
    )
