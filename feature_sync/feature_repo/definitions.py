"""Entities, views and services of the feature store, as Feast registers them.

Every view's source is one Parquet file that `python -m feature_sync features` writes: see docs/features.md for what
each holds and how to add one. Every view has the field `known_at`, by which training sets are checked for leaks.

A row is valid until the entity's next row, because a row is written whenever a value changes. So the views' time to
live is 0, which Feast takes as unlimited. Online values that are not renewed expire in the online store
(`key_ttl_seconds`).
"""

from __future__ import annotations

import os
from datetime import timedelta
from pathlib import Path

from feast import Entity, FeatureService, FeatureView, Field, FileSource, ValueType
from feast.types import Array, Bool, Float32, Int64, String

from tandem.contract import names

_UNTIL_THE_NEXT_ROW = timedelta(0)


def _source(view: str) -> FileSource:
    return FileSource(
        name=f"{view}_source",
        path=str(Path(os.environ["TANDEM_FEAST_DIR"], f"{view}.parquet")),
        timestamp_field=names.EVENT_TIMESTAMP,
        created_timestamp_column=names.CREATED_TIMESTAMP,
    )


_KNOWN_AT = Field(name=names.KNOWN_AT, dtype=Int64)
_STATE_REVISION = Field(name=names.STATE_REVISION, dtype=Int64)
_CHANGE_SEQUENCE = Field(name=names.CHANGE_SEQUENCE, dtype=Int64)
_MODEL_VERSION = Field(name=names.MODEL_VERSION, dtype=String)
_COUNTS = [Field(name=name, dtype=Int64) for name in names.EVENT_COUNTS]

user = Entity(name="user", join_keys=[names.USER_ID], value_type=ValueType.STRING)
item = Entity(name="item", join_keys=[names.ITEM_ID], value_type=ValueType.STRING)

user_profile = FeatureView(
    name=names.USER_PROFILE_VIEW,
    description="Demographics: what the data say of a user. Feast reads the fields from the source's columns.",
    entities=[user],
    ttl=_UNTIL_THE_NEXT_ROW,
    source=_source(names.USER_PROFILE_VIEW),
)
user_interaction_counts = FeatureView(
    name=names.USER_COUNTS_VIEW,
    description="Events of a user so far, by type.",
    entities=[user],
    ttl=_UNTIL_THE_NEXT_ROW,
    schema=[*_COUNTS, _STATE_REVISION, _KNOWN_AT],
    source=_source(names.USER_COUNTS_VIEW),
)
user_tower_embedding = FeatureView(
    name=names.USER_VECTOR_VIEW,
    description="What one model version's user tower makes of a user's state.",
    entities=[user],
    ttl=_UNTIL_THE_NEXT_ROW,
    schema=[_MODEL_VERSION, Field(name=names.USER_VECTOR, dtype=Array(Float32)), _STATE_REVISION, _KNOWN_AT],
    source=_source(names.USER_VECTOR_VIEW),
)
item_profile = FeatureView(
    name=names.ITEM_PROFILE_VIEW,
    description="What the catalogue says of an item; popularity counts the served model's training data.",
    entities=[item],
    ttl=_UNTIL_THE_NEXT_ROW,
    schema=[
        Field(name=names.TITLE, dtype=String),
        Field(name=names.CATEGORIES, dtype=Array(String)),
        Field(name=names.ATTRIBUTES, dtype=String, description="JSON object, keys in order"),
        Field(name=names.AVAILABLE, dtype=Bool),
        Field(name=names.POPULARITY, dtype=Int64),
        _MODEL_VERSION,
        _CHANGE_SEQUENCE,
        _KNOWN_AT,
    ],
    source=_source(names.ITEM_PROFILE_VIEW),
)
item_interaction_counts = FeatureView(
    name=names.ITEM_COUNTS_VIEW,
    description="Events on an item so far, by type: popularity as it was at any time.",
    entities=[item],
    ttl=_UNTIL_THE_NEXT_ROW,
    schema=[*_COUNTS, _KNOWN_AT],
    source=_source(names.ITEM_COUNTS_VIEW),
)
item_text_embedding = FeatureView(
    name=names.ITEM_TEXT_VIEW,
    description="What the frozen text encoder of the served model makes of an item's text.",
    entities=[item],
    ttl=_UNTIL_THE_NEXT_ROW,
    schema=[
        Field(name=names.TEXT_HASH, dtype=String),
        Field(name=names.TEXT_EMBEDDING, dtype=Array(Float32)),
        _KNOWN_AT,
    ],
    source=_source(names.ITEM_TEXT_VIEW),
)
item_tower_embedding = FeatureView(
    name=names.ITEM_VECTOR_VIEW,
    description="What one model version's item tower makes of an item.",
    entities=[item],
    ttl=_UNTIL_THE_NEXT_ROW,
    schema=[_MODEL_VERSION, Field(name=names.ITEM_VECTOR, dtype=Array(Float32)), _CHANGE_SEQUENCE, _KNOWN_AT],
    source=_source(names.ITEM_VECTOR_VIEW),
)

training = FeatureService(
    name="training",
    description="What training-set joins by default: everything that is no vector.",
    features=[user_profile, user_interaction_counts, item_profile, item_interaction_counts],
)
training_with_vectors = FeatureService(
    name="training_with_vectors",
    description="The same with texts and both towers' vectors: wide rows.",
    features=[
        user_profile,
        user_interaction_counts,
        user_tower_embedding,
        item_profile,
        item_interaction_counts,
        item_text_embedding,
        item_tower_embedding,
    ],
)
