"""Describes in words what the towers read of a data set."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from tandem.contract.features import FeatureSchema
from trainer.dataset.dataset import Dataset
from trainer.features.schema import catalogue_texts


def feature_summary(dataset: Dataset, schema: FeatureSchema, content_vectors: npt.NDArray[np.float16] | None) -> str:
    """Lines of text: items, texts, categories, content vectors, user features, and the matrix of interactions.

    `content_vectors` is (items, content_dim) float16, None for a catalogue without texts and categories.
    """
    catalogue = dataset.catalogue
    num_items, num_users, num_events = len(catalogue), len(dataset.user_ids), len(dataset.item_rows)
    with_text = sum(map(bool, catalogue_texts(catalogue)))
    with_categories = sum(bool(categories) for categories in catalogue.categories)
    lines = [
        f"interactions: {num_users:,} users x {num_items:,} items, {num_events:,} entries, "
        f"density {num_events / max(1, num_users * num_items):.4%}",
        f"history: the newest {schema.history_length} events of a user",
        f"text: {with_text:,} items with text, embeddings of {schema.text_dim} dimensions"
        if schema.text_dim
        else "text: none is read",
        f"categories: {with_categories:,} items with categories, {len(schema.item_categories):,} categories are read",
    ]
    if content_vectors is None:
        lines.append("content vectors: none, the catalogue has no texts and no categories")
    else:
        known = int(content_vectors.any(axis=1).sum())
        lines.append(f"content vectors: {known:,} items, {content_vectors.shape[1]} dimensions")
    lines += [
        f"user feature {feature.name}: {feature.num_codes - 1:,} {'values' if feature.values else 'buckets'}"
        for feature in schema.user_features
    ]
    if schema.user_ids:
        lines.append("user ids: read by the user tower")
    return "\n".join(lines)
