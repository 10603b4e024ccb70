"""Names that two programs share: written once here, never as literals elsewhere."""

from typing import Final

# Columns of the prepared data, and of the item table.
USER_ID: Final = "user_id"
ITEM_ID: Final = "item_id"
RATING: Final = "rating"
TIMESTAMP: Final = "timestamp"
EVENT_TYPE: Final = "event_type"
NORMALISED_RATING: Final = "normalised_rating"
WEIGHT: Final = "weight"
LAST_TIMESTAMP: Final = "last_timestamp"
NUM_EVENTS_BEFORE: Final = "num_events_before"
TITLE: Final = "title"
DESCRIPTION: Final = "description"
CATEGORIES: Final = "categories"
ATTRIBUTES: Final = "attributes"
POPULARITY: Final = "popularity"
AVAILABLE: Final = "available"

# Further columns of the raw events that feature_sync keeps.
EVENT_ID: Final = "event_id"
VALUE: Final = "value"
RECEIVED_AT: Final = "received_at"
REQUEST_ID: Final = "request_id"
POSITION: Final = "position"
CURRENCY: Final = "currency"

# Further columns of the raw changes of the catalogue that feature_sync keeps.
SEQUENCE: Final = "sequence"
SLOT: Final = "slot"
DELETED: Final = "deleted"
CHANGED_AT: Final = "changed_at"

# Further columns of impressions.
SCENARIO: Final = "scenario"
PLACEMENT: Final = "placement"
CONTEXT: Final = "context"
VARIANT: Final = "variant"
POLICY_FINGERPRINT: Final = "policy_fingerprint"
ANSWER_SOURCE: Final = "answer_source"
DEGRADED_REASONS: Final = "degraded_reasons"
ASSIGNMENTS: Final = "assignments"
EXPERIMENT: Final = "experiment"
ARM: Final = "arm"
EXPOSED: Final = "exposed"
FIRST_POSITION: Final = "first_position"
ITEM_IDS: Final = "item_ids"
SOURCES: Final = "sources"
SCORES: Final = "scores"
PROPENSITIES: Final = "propensities"
NUM_CANDIDATES: Final = "num_candidates"
RANKS: Final = "ranks"
LATENCY_US: Final = "latency_us"

DAY_PARTITION: Final = "day="
"""Prefix of the folders of raw events, changes and impressions, followed by the day they were applied, YYYY-MM-DD in
UTC."""

# Event types in the order of the API; an event's code is its index here plus one, because code 0 is padding.
CLICK: Final = "click"
EVENT_TYPES: Final = ("impression", CLICK, "add_to_cart", "purchase", "rating", "dwell")
EVENT_CODES: Final = {name: code for code, name in enumerate(EVENT_TYPES, start=1)}

# Tensors of the user tower.
HISTORY_VECTORS: Final = "history_vectors"
HISTORY_EVENT_CODES: Final = "history_event_codes"
HISTORY_AGES: Final = "history_ages"
HISTORY: Final = (HISTORY_VECTORS, HISTORY_EVENT_CODES, HISTORY_AGES)
"""Inputs of the user tower with one column per event, the newest event in the last column."""
USER_FEATURE_CODES: Final = "user_feature_codes"
USER_INDEX: Final = "user_index"
USER_VECTOR: Final = "user_vector"

# User features that are derived from the history; every other user feature comes with the data.
NUM_EVENTS: Final = "history.num_events"
DAYS_BEFORE_NEWEST: Final = "history.days_before_newest"

# Tensors of the item tower.
ITEM_INDEX: Final = "item_index"
TEXT_EMBEDDING: Final = "text_embedding"
CATEGORY_CODES: Final = "category_codes"
ITEM_VECTOR: Final = "item_vector"

# Tensors of an ONNX ranker. Each is flat over (user, candidate) pairs, so that one run takes users with different
# numbers of candidates; a ranker reads any subset of the tensors.
RANKER_USER_VECTOR: Final = "user_vector"
RANKER_ITEM_VECTOR: Final = "item_vector"
RANKER_USER_INDEX: Final = "user_index"
RANKER_ITEM_INDEX: Final = "item_index"
RANKER_COLLABORATIVE_SCORE: Final = "collaborative_score"
RANKER_CONTENT_SCORE: Final = "content_score"
RANKER_POPULARITY: Final = "popularity"
RANKER_SCORE: Final = "ranker_score"

# The feature store: its views.
USER_PROFILE_VIEW: Final = "user_profile"
USER_COUNTS_VIEW: Final = "user_interaction_counts"
USER_VECTOR_VIEW: Final = "user_tower_embedding"
ITEM_PROFILE_VIEW: Final = "item_profile"
ITEM_COUNTS_VIEW: Final = "item_interaction_counts"
ITEM_TEXT_VIEW: Final = "item_text_embedding"
ITEM_VECTOR_VIEW: Final = "item_tower_embedding"

# Columns of its sources; a field of a view with another name of this module has the same meaning there.
EVENT_TIMESTAMP: Final = "event_timestamp"
CREATED_TIMESTAMP: Final = "created_timestamp"
KNOWN_AT: Final = "known_at"
"""When a row's values became known, in microseconds since 1970: the time of its two timestamps, as a field."""
EVENT_COUNTS: Final = tuple(f"num_{name}" for name in EVENT_TYPES)
"""Fields of counts by event type, in the order of EVENT_TYPES."""
MODEL_VERSION: Final = "model_version"
STATE_REVISION: Final = "state_revision"
CHANGE_SEQUENCE: Final = "change_sequence"
TEXT_HASH: Final = "text_hash"

# The registry.
REGISTERED_MODEL: Final = "tandem"
CHAMPION: Final = "champion"
CHALLENGER: Final = "challenger"
BUNDLE_ARTIFACT_PATH: Final = "bundle"
MODEL_VERSION_TAG: Final = "tandem.model_version"
GATE_TAG: Final = "tandem.gate"
"""Tag of a version: the gate's last verdict, GATE_PASSED or GATE_REFUSED."""
GATE_AGAINST_TAG: Final = "tandem.gate_against"
"""Tag of a version: number of the champion that it was compared with for the verdict; empty if there was none."""
GATE_PASSED: Final = "passed"
GATE_REFUSED: Final = "refused"
ROLLED_BACK_TAG: Final = "tandem.rolled_back_at"
"""Tag of a version: when `rollback` took the champion's alias from it, ISO 8601, UTC."""

# Candidate sources, as `Reason.source` names them.
SOURCE_TWO_TOWER: Final = "two_tower"
SOURCE_CONTENT_NEIGHBOURS: Final = "content_neighbours"
SOURCE_ITEM_ITEM: Final = "item_item"
SOURCE_SEQUENTIAL: Final = "sequential"
SOURCE_TRENDING: Final = "trending"
SOURCE_POPULAR: Final = "popular"
SOURCE_CACHED: Final = "cached"

# The segment of the top-N lists that everyone belongs to; a category's segment is CATEGORY_SEGMENT + its name.
SEGMENT_ALL: Final = "all"
CATEGORY_SEGMENT: Final = "category="
