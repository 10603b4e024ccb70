"""The user tower: the vectors of a user's items through a history encoder, and the user's features.

Training reads the output at every position, serving only at the newest.
"""

from __future__ import annotations

from torch import Tensor, nn

from tandem.contract.manifest import Similarity
from trainer.models.history_encoder import HistoryEncoder, Layout
from trainer.models.similarity import normalise


class UserTower(nn.Module):
    """Reads a history and the user's features; returns vectors in the space of the item vectors."""

    def __init__(
        self,
        encoder: HistoryEncoder,
        *,
        dim: int,
        num_event_codes: int,
        feature_sizes: tuple[int, ...],
        num_users: int,
        similarity: Similarity,
    ) -> None:
        """`feature_sizes` are the numbers of codes of the user features; `num_users` 0: the tower reads no user ids."""
        super().__init__()
        self.encoder = encoder
        self.similarity: Similarity = similarity
        self.event_embedding = nn.Embedding(num_event_codes, dim, padding_idx=0)
        self.feature_embeddings = nn.ModuleList(nn.Embedding(size, dim) for size in feature_sizes)
        self.user_embedding = nn.Embedding(num_users + 1, dim) if num_users else None
        nn.init.normal_(self.event_embedding.weight, std=0.02)
        for table in [*self.feature_embeddings, *([self.user_embedding] if self.user_embedding else [])]:
            nn.init.zeros_(table.weight)

    def forward(
        self,
        history_vectors: Tensor,
        history_event_codes: Tensor,
        history_ages: Tensor,
        user_feature_codes: Tensor | None = None,
        user_index: Tensor | None = None,
    ) -> Tensor:
        """Vectors after the newest event: inputs of `tandem.contract.features.encode_users` -> (b, dim)."""
        vectors = self.sequence(
            history_vectors, history_event_codes, history_ages, user_feature_codes, user_index, newest_only=True
        )
        return vectors[:, 0]

    def sequence(
        self,
        history_vectors: Tensor,
        history_event_codes: Tensor,
        history_ages: Tensor | None,
        user_feature_codes: Tensor | None = None,
        user_index: Tensor | None = None,
        *,
        layout: Layout | None = None,
        newest_only: bool = False,
    ) -> Tensor:
        """Vectors after every event of the history, (b, n, dim), each of which sees only that event and earlier events;
        with `newest_only` the vector after the newest event, (b, 1, dim).

        The histories may have fewer columns than the tower reads: the newest. `history_ages` None means that all ages
        are 0, as for data with only an order; the vectors are the same as for zeros, and computed faster.
        `user_feature_codes` is (b, features) and `user_index` (b,), or (b, n, features) and (b, n) if they differ from
        event to event, as when several histories share a row by `layout`.
        """
        events = history_vectors + self.event_embedding(history_event_codes)
        vectors: Tensor = self.encoder(events, history_event_codes, history_ages, layout, newest_only=newest_only)
        if user_feature_codes is not None:
            codes = user_feature_codes if user_feature_codes.dim() == 3 else user_feature_codes[:, None]
            for column, embedding in enumerate(self.feature_embeddings):
                vectors = vectors + embedding(codes[..., column])
        if self.user_embedding is not None and user_index is not None:
            index = user_index if user_index.dim() == 2 else user_index[:, None]
            vectors = vectors + self.user_embedding(index)
        return normalise(vectors, self.similarity)
