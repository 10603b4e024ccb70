"""The manifest: the description of a bundle. `bundle` writes it to manifest.json and checks the files against it."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Final, Literal, get_args

from tandem.contract.errors import BundleCorrupt, BundleIncompatible
from tandem.contract.features import FeatureSchema
from tandem.contract.names import EVENT_TYPES
from tandem.contract.paths import is_plain_name

FORMAT_VERSION: Final = 7
READABLE_FORMAT_VERSIONS: Final = frozenset({1, 2, 3, 4, 5, 6, 7})
"""Version 1 has neither `blend` nor `ranker`; both default to None. Before version 4, all items are available and no
change of the live catalogue is merged. Before version 5, `min_rating` is not recorded.
Before version 6, there are no `event_weights`: the first event of a user with an item stands for all.
Before version 7, no blend has a sequential source, and no source reads whole histories."""

MANIFEST: Final = "manifest.json"
_MAX_CHARACTERS: Final = 1 << 24
"""The manifest of a bundle with a hundred thousand metrics has half as many."""
_MAX_DIM: Final = 1 << 16
_MAX_LISTS: Final = 1 << 32

Similarity = Literal["cosine", "dot"]


@dataclass(frozen=True)
class TensorSpec:
    """An input or output of a tower. A dynamic dimension has a name instead of a size: ("batch", 50, 64)."""

    name: str
    dtype: str
    shape: tuple[str | int, ...]


@dataclass(frozen=True)
class TowerSpec:
    """Inputs and outputs of a tower, in order."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]


@dataclass(frozen=True)
class TrainingData:
    """The data that a model was trained on."""

    name: str
    fingerprint: str
    """SHA-256 over the prepared interactions and items."""
    num_users: int
    num_items: int
    num_interactions: int
    data_version: str = ""
    """Version of the data in its version control; empty if there is none."""


@dataclass(frozen=True)
class IndexSpec:
    """How the index was built, and its measured recall."""

    kind: str
    """FAISS factory string, for example "IVF32,Flat"."""
    nprobe: int
    """Number of lists to search; `recall_at_100` was measured at this number."""
    recall_at_100: float
    """Share of the 100 nearest items by exact search that the index returned, mean over held-out users' vectors."""


@dataclass(frozen=True)
class Calibration:
    """Mean and standard deviation of one kind of score, measured at export, which make kinds of scores comparable."""

    mean: float
    std: float
    """Greater than 0."""


@dataclass(frozen=True)
class ItemItemSpec:
    """The part of the item-item source, or of the sequential source, in a blend's collaborative score."""

    weight: float
    """Share of the collaborative score, above 0 and at most 1. The item-item source has its share of the whole, the
    sequential source of what that leaves; the two towers have the rest."""
    decay_events: float
    """An event this many events older than the newest counts 1/e of it; above 0."""
    calibration: Calibration
    whole_history: bool = False
    """Whether items chosen before the events that the online store keeps count too, each as its oldest event."""
    by_score: bool = False
    """Whether the source proposes the items with its highest scores; if not, the neighbours of the newest items."""


@dataclass(frozen=True)
class BlendSpec:
    """The hybrid blend of collaborative and content scores; `ranking.blend` applies it."""

    content_weight: float
    """Share of the content score, 0 to 1; the collaborative score has the rest."""
    collaborative: Calibration
    """Calibration of the two towers' scores."""
    content: Calibration | None
    """Calibration of content scores; None in a bundle without content, where `content_weight` is 0."""
    item_item: ItemItemSpec | None = None
    """None if the blend does not have the item-item source."""
    sequential: ItemItemSpec | None = None
    """None if the blend does not have the sequential source."""

    def check(self) -> None:
        """Raises BundleIncompatible if a number is out of bounds."""
        if not 0.0 <= self.content_weight <= 1.0:
            raise BundleIncompatible(f"{MANIFEST}: blend.content_weight {self.content_weight} is not in 0..1")
        if self.content is None and self.content_weight:
            raise BundleIncompatible(f"{MANIFEST}: blend.content_weight {self.content_weight} without content")
        calibrations = [self.collaborative, self.content]
        for name, source in (("item_item", self.item_item), ("sequential", self.sequential)):
            if source is None:
                continue
            if not 0.0 < source.weight <= 1.0 or source.decay_events <= 0.0:
                raise BundleIncompatible(f"{MANIFEST}: blend.{name}: weight or decay_events is out of bounds")
            calibrations.append(source.calibration)
        if any(calibration is not None and calibration.std <= 0.0 for calibration in calibrations):
            raise BundleIncompatible(f"{MANIFEST}: blend: a standard deviation is not above 0")


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """The description of a bundle."""

    model_version: str
    """Unique name of this bundle, part of its vectors' keys in the store: letters, digits, ".", "_", "-"."""
    created_at: str
    """ISO 8601, UTC."""
    training_data: TrainingData
    feature_schema: FeatureSchema
    user_tower: TowerSpec
    item_tower: TowerSpec
    embedding_dim: int
    similarity: Similarity
    """How vectors are scored. "cosine" vectors are stored with length 1, so that both scores are dot products."""
    index: IndexSpec
    metrics: Mapping[str, float]
    """Offline metrics by name, for example "test/ndcg@10"."""
    onnx_max_abs_difference: float
    """Largest difference between a tower in ONNX Runtime and in PyTorch, at export."""
    blend: BlendSpec | None = None
    """How candidates are ranked by default. The bundle has the files that the blend reads."""
    ranker: TowerSpec | None = None
    """Tensors of the ONNX ranker; None if the bundle has none."""
    catalogue_sequence: int = 0
    """`streams.AppliedItemChange.sequence` of the last live change that is merged into the item table."""
    min_rating: float | None = None
    """Ratings below it are no choices: their items count as seen, and enter no history. The model was trained by this
    rule, and feature_sync applies it to events. None: every rating is a choice."""
    event_weights: Mapping[str, float] = field(default_factory=dict)
    """Strength of each event type. The strongest event of a user with an item stands for all of them, see `event_rule`;
    feature_sync applies this rule too. Empty: the first event does."""
    item_vocabulary_hash: str = ""
    user_vocabulary_hash: str = ""
    feature_schema_fingerprint: str = ""
    format_version: int = FORMAT_VERSION
    files: Mapping[str, Mapping[str, str | int]] = field(default_factory=dict)
    """Entries "sha256" and "bytes" by file name."""

    def to_json(self) -> str:
        """The manifest as stored in manifest.json. Raises BundleCorrupt if a number is NaN or infinite, which JSON
        cannot hold."""
        try:
            return json.dumps(asdict(self), indent=2, sort_keys=True, allow_nan=False)
        except ValueError as error:
            raise BundleCorrupt(f"{MANIFEST}: {_not_finite(asdict(self))} is not a finite number") from error

    @classmethod
    def from_json(cls, text: str) -> Manifest:
        """Raises BundleCorrupt if the text is not JSON, BundleIncompatible on another format or a wrong field."""
        if len(text) > _MAX_CHARACTERS:
            raise BundleCorrupt(f"{MANIFEST} has {len(text)} characters, at most {_MAX_CHARACTERS} are read")
        try:
            raw = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise BundleCorrupt(f"{MANIFEST} is not JSON: {error}") from error
        if not isinstance(raw, dict) or raw.get("format_version") not in READABLE_FORMAT_VERSIONS:
            found = raw.get("format_version") if isinstance(raw, dict) else None
            readable = sorted(READABLE_FORMAT_VERSIONS)
            raise BundleIncompatible(f"{MANIFEST}: format_version is {found}, this code reads {readable}")
        try:
            manifest = cls(
                **{
                    **raw,
                    "training_data": TrainingData(**raw["training_data"]),
                    "feature_schema": FeatureSchema.from_dict(raw["feature_schema"]),
                    "user_tower": _tower_spec(raw["user_tower"]),
                    "item_tower": _tower_spec(raw["item_tower"]),
                    "index": IndexSpec(**raw["index"]),
                    "blend": _blend_spec(raw.get("blend")),
                    "ranker": _tower_spec(raw["ranker"]) if raw.get("ranker") else None,
                }
            )
            manifest._check_fields()
        except BundleIncompatible:
            raise
        except Exception as error:  # whatever a field of another type raises where it is read
            raise BundleIncompatible(f"{MANIFEST}: wrong or missing field: {error}") from error
        return manifest

    def _check_fields(self) -> None:
        # Part of store keys, where "/" is the separator, and the name of a folder in caches.
        if not is_plain_name(self.model_version):
            raise BundleIncompatible(f"{MANIFEST}: model_version {self.model_version!r} is not a plain name")
        if self.similarity not in get_args(Similarity):
            raise BundleIncompatible(f"{MANIFEST}: similarity {self.similarity!r} is unknown")
        if not isinstance(self.files, dict) or not isinstance(self.metrics, dict):
            raise BundleIncompatible(f"{MANIFEST}: files and metrics must be objects")
        for name, count, least, most in (
            ("embedding_dim", self.embedding_dim, 1, _MAX_DIM),
            ("feature_schema.history_length", self.feature_schema.history_length, 1, _MAX_DIM),
            ("index.nprobe", self.index.nprobe, 1, _MAX_LISTS),
            ("catalogue_sequence", self.catalogue_sequence, 0, (1 << 63) - 1),
        ):
            if type(count) is not int or not least <= count <= most:
                raise BundleIncompatible(f"{MANIFEST}: {name} is not a whole number in {least}..{most}")
        for name, entry in self.files.items():
            if not is_plain_name(name):
                raise BundleIncompatible(f"{MANIFEST}: {name[:60]!r} is not a file name")
            if not isinstance(entry, dict) or not {"sha256", "bytes"} <= entry.keys():
                raise BundleIncompatible(f"{MANIFEST}: {name} lacks its sha256 or bytes")
        for tower in (self.user_tower, self.item_tower):
            if not tower.outputs or not all(spec.shape for spec in tower.outputs):
                raise BundleIncompatible(f"{MANIFEST}: a tower has no output, or one without a shape")
        if not isinstance(self.min_rating, int | float | None) or isinstance(self.min_rating, bool):
            raise BundleIncompatible(f"{MANIFEST}: min_rating {self.min_rating!r} is not a number")
        if not isinstance(self.event_weights, dict) or set(self.event_weights) not in (set(), set(EVENT_TYPES)):
            raise BundleIncompatible(f"{MANIFEST}: event_weights must have every event type, or none")
        for name, weight in self.event_weights.items():
            if not isinstance(weight, int | float) or isinstance(weight, bool) or not 0 <= weight < math.inf:
                raise BundleIncompatible(f"{MANIFEST}: event_weights.{name} {weight!r} is not a number of at least 0")
        if self.blend is not None:
            self.blend.check()


def _not_finite(value: object, path: str = "") -> str:
    """The path of the first number in a JSON value that is NaN or infinite; empty if there is none."""
    if isinstance(value, float):
        return "" if math.isfinite(value) else path
    entries = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list | tuple) else ()
    found = (_not_finite(inner, f"{path}.{key}" if path else str(key)) for key, inner in entries)
    return next((name for name in found if name), "")


def _tower_spec(raw: Mapping[str, Sequence[Mapping[str, object]]]) -> TowerSpec:
    def specs(entries: Sequence[Mapping[str, object]]) -> tuple[TensorSpec, ...]:
        return tuple(TensorSpec(str(e["name"]), str(e["dtype"]), tuple(e["shape"])) for e in entries)  # type: ignore[arg-type]

    return TowerSpec(specs(raw["inputs"]), specs(raw["outputs"]))


def _blend_spec(raw: Mapping[str, Any] | None) -> BlendSpec | None:
    if raw is None:
        return None
    return BlendSpec(
        float(raw["content_weight"]),
        Calibration(**raw["collaborative"]),
        Calibration(**raw["content"]) if raw["content"] else None,
        _item_item_spec(raw.get("item_item")),
        _item_item_spec(raw.get("sequential")),
    )


def _item_item_spec(raw: Mapping[str, Any] | None) -> ItemItemSpec | None:
    if not raw:
        return None
    calibration = Calibration(**raw["calibration"])
    return ItemItemSpec(
        float(raw["weight"]),
        float(raw["decay_events"]),
        calibration,
        whole_history=bool(raw.get("whole_history", False)),
        by_score=bool(raw.get("by_score", False)),
    )
