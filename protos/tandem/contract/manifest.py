"""The manifest: what a bundle says of itself. `bundle` writes it into manifest.json and checks the files against it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Final, Literal, get_args

from tandem.contract.errors import BundleCorrupt, BundleIncompatible
from tandem.contract.features import FeatureSchema

FORMAT_VERSION: Final = 4
READABLE_FORMAT_VERSIONS: Final = frozenset({1, 2, 3, 4})
"""Version 1 has no `blend` and no `ranker`; both default to none. Before version 4 every item is available and no
change of the live catalogue is merged."""

MANIFEST: Final = "manifest.json"
# A part of store keys, where "/" separates, and a folder's name in caches.
_MODEL_VERSION: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")

Similarity = Literal["cosine", "dot"]


@dataclass(frozen=True)
class TensorSpec:
    """One input or output of a tower. A dimension that varies is named, for example ("batch", 50, 64)."""

    name: str
    dtype: str
    shape: tuple[str | int, ...]


@dataclass(frozen=True)
class TowerSpec:
    """Inputs and outputs of a tower, in their order."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]


@dataclass(frozen=True)
class TrainingData:
    """What a model was trained on."""

    name: str
    fingerprint: str
    """SHA-256 over the prepared interactions and items."""
    num_users: int
    num_items: int
    num_interactions: int
    data_version: str = ""
    """What the version control of the data calls them; empty where there is none."""


@dataclass(frozen=True)
class IndexSpec:
    """How the index was built, and what was measured of it."""

    kind: str
    """FAISS factory string, for example "IVF32,Flat"."""
    nprobe: int
    """Lists to search, at which `recall_at_100` was measured."""
    recall_at_100: float
    """Share of the exact 100 nearest items that the index returned, mean over held-out users' vectors."""


@dataclass(frozen=True)
class Calibration:
    """Mean and standard deviation of one kind of score, measured at export: they make two kinds comparable."""

    mean: float
    std: float
    """Greater than 0."""


@dataclass(frozen=True)
class ItemItemSpec:
    """The share of the item-item source in a blend's collaborative score."""

    weight: float
    """Above 0, at most 1; the two towers have the rest."""
    decay_events: float
    """An event that this many newer ones follow counts 1/e of the newest; above 0."""
    calibration: Calibration


@dataclass(frozen=True)
class BlendSpec:
    """The hybrid blend of collaborative and content scores; `ranking.blend` applies it."""

    content_weight: float
    """Share of the content score, 0 to 1; the collaborative score has the rest."""
    collaborative: Calibration
    """Of the two towers' scores."""
    content: Calibration | None
    """None in a bundle without content, where `content_weight` is 0."""
    item_item: ItemItemSpec | None = None
    """None where the two towers alone are the collaborative score."""

    def check(self) -> None:
        """Raises BundleIncompatible on a number that is out of bounds."""
        if not 0.0 <= self.content_weight <= 1.0:
            raise BundleIncompatible(f"{MANIFEST}: blend.content_weight {self.content_weight} is not in 0..1")
        if self.content is None and self.content_weight:
            raise BundleIncompatible(f"{MANIFEST}: blend.content_weight {self.content_weight} without content")
        calibrations = [self.collaborative, self.content]
        if self.item_item is not None:
            if not 0.0 < self.item_item.weight <= 1.0 or self.item_item.decay_events <= 0.0:
                raise BundleIncompatible(f"{MANIFEST}: blend.item_item: weight or decay_events is out of bounds")
            calibrations.append(self.item_item.calibration)
        if any(calibration is not None and calibration.std <= 0.0 for calibration in calibrations):
            raise BundleIncompatible(f"{MANIFEST}: blend: a standard deviation is not above 0")


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What a bundle says of itself."""

    model_version: str
    """Unique name of this bundle, part of the key of every vector made with it: letters, digits, ".", "_", "-"."""
    created_at: str
    """ISO 8601, UTC."""
    training_data: TrainingData
    feature_schema: FeatureSchema
    user_tower: TowerSpec
    item_tower: TowerSpec
    embedding_dim: int
    similarity: Similarity
    """How scores are made of vectors. Vectors of "cosine" are stored with length 1, so that both are a dot product."""
    index: IndexSpec
    metrics: Mapping[str, float]
    """Offline metrics by name, for example "test/ndcg@10"."""
    onnx_max_abs_difference: float
    """Largest difference between a tower in ONNX Runtime and in PyTorch, at export."""
    blend: BlendSpec | None = None
    """How candidates are ranked by default. The bundle holds what the blend reads: content, the item-item source."""
    ranker: TowerSpec | None = None
    """Tensors of the ONNX ranker; None where the bundle has none."""
    catalogue_sequence: int = 0
    """The last change of the live catalogue that the item table has in it (`streams.AppliedItemChange.sequence`)."""
    item_vocabulary_hash: str = ""
    user_vocabulary_hash: str = ""
    feature_schema_fingerprint: str = ""
    format_version: int = FORMAT_VERSION
    files: Mapping[str, Mapping[str, str | int]] = field(default_factory=dict)
    """Per file its "sha256" and "bytes"."""

    def to_json(self) -> str:
        """The manifest as it is stored."""
        return json.dumps(asdict(self), indent=2, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Manifest:
        """Raises BundleCorrupt when the text is not JSON, BundleIncompatible on another format or a wrong field."""
        try:
            raw = json.loads(text)
        except ValueError as error:
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
        except (KeyError, TypeError, ValueError) as error:
            raise BundleIncompatible(f"{MANIFEST}: wrong or missing field: {error}") from error
        manifest._check_fields()
        return manifest

    def _check_fields(self) -> None:
        if not _MODEL_VERSION.fullmatch(str(self.model_version)):
            raise BundleIncompatible(f"{MANIFEST}: model_version {self.model_version!r} is not a plain name")
        if self.similarity not in get_args(Similarity):
            raise BundleIncompatible(f"{MANIFEST}: similarity {self.similarity!r} is unknown")
        if not isinstance(self.files, dict) or not isinstance(self.metrics, dict):
            raise BundleIncompatible(f"{MANIFEST}: files and metrics must be objects")
        for name, entry in self.files.items():
            if not isinstance(entry, dict) or not {"sha256", "bytes"} <= entry.keys():
                raise BundleIncompatible(f"{MANIFEST}: {name} lacks its sha256 or bytes")
        for tower in (self.user_tower, self.item_tower):
            if not tower.outputs or not all(spec.shape for spec in tower.outputs):
                raise BundleIncompatible(f"{MANIFEST}: a tower has no output, or one without a shape")
        if self.blend is not None:
            self.blend.check()


def _tower_spec(raw: Mapping[str, Sequence[Mapping[str, object]]]) -> TowerSpec:
    def specs(entries: Sequence[Mapping[str, object]]) -> tuple[TensorSpec, ...]:
        return tuple(TensorSpec(str(e["name"]), str(e["dtype"]), tuple(e["shape"])) for e in entries)  # type: ignore[arg-type]

    return TowerSpec(specs(raw["inputs"]), specs(raw["outputs"]))


def _blend_spec(raw: Mapping[str, Any] | None) -> BlendSpec | None:
    if raw is None:
        return None
    item_item = None
    if of_source := raw.get("item_item"):
        calibration = Calibration(**of_source["calibration"])
        item_item = ItemItemSpec(float(of_source["weight"]), float(of_source["decay_events"]), calibration)
    return BlendSpec(
        float(raw["content_weight"]),
        Calibration(**raw["collaborative"]),
        Calibration(**raw["content"]) if raw["content"] else None,
        item_item,
    )
