"""Rankers: what orders the candidates of a batch. The bundle's hybrid blend, or its ONNX ranker."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from inference_server.model.catalogue.catalogue import Catalogue
from inference_server.model.engine.expectation import expected_others
from inference_server.model.engine.search import EXACT_MAX_ITEMS
from tandem.contract import names
from tandem.contract.bundle import Bundle
from tandem.contract.bundle_contents import Content
from tandem.contract.errors import BundleIncompatible
from tandem.contract.features import encode_index
from tandem.contract.manifest import BlendSpec
from tandem.contract.ranking import blend, content_profiles
from tandem.contract.vocabulary import MISSING_ROW, Rows
from tandem.ops.onnx_session import OnnxSession


@dataclass(frozen=True, kw_only=True, slots=True)
class Pairs:
    """Users and their candidates, for a ranker. Cells without a candidate hold any valid row and are ignored after."""

    user_vectors: npt.NDArray[np.float32]
    """(users, dim) float32."""
    user_index: npt.NDArray[np.int64] | None
    """(users,) int64 as `features.encode_index` makes it; None where the bundle has no user ids."""
    rows: npt.NDArray[np.int64]
    """(users, candidates) int64."""
    collaborative: npt.NDArray[np.float32]
    """(users, candidates) float32, inner products of the two towers."""
    content: npt.NDArray[np.float32]
    """(users, candidates) float32, inner products of content profile and content vector; 0 without content."""
    item_item: npt.NDArray[np.float32] | None
    """(users, candidates) float32, scores of the item-item source; None where the ranker does not read them."""
    catalogue: Catalogue
    """What `rows` are rows of."""
    unknown: UnknownParts | None = None
    """None where the bundle holds all candidates."""


@dataclass(frozen=True, slots=True)
class UnknownParts:
    """Candidates that the bundle does not hold, whose content and item-item scores are not known: the means of all
    users and items stand in their place."""

    places: npt.NDArray[np.bool_]
    """(users, candidates) bool."""
    comparable: npt.NDArray[np.bool_]
    """(users, candidates) bool: other candidates, chosen by the two towers' score alone as these were."""


class ContentScorer:
    """Content scores of candidates, from the bundle's content vectors."""

    def __init__(self, content: Content) -> None:
        self._vectors = np.asarray(content.vectors)
        self.neighbours = np.asarray(content.neighbours)
        """(items, neighbours) int32, -1 where there are no more."""
        # Floats of their own spare a small catalogue converting those of the candidates.
        few = len(self._vectors) <= EXACT_MAX_ITEMS
        self._dense = self._vectors.astype(np.float32) if few else None

    def score(self, history_rows: Rows, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        """Profile times content vector. (users, n) and (users, candidates) int64 -> (users, candidates) float32."""
        vectors = self._vectors if self._dense is None else self._dense
        profiles = content_profiles(vectors, history_rows)
        scores = np.empty(rows.shape, dtype=np.float32)
        # User by user: one user's candidates stay in the processor's cache, those of a batch do not. With `take`, which
        # is faster than indexing, it is half to two thirds of the time.
        for profile, of_user, into in zip(profiles, rows, scores, strict=True):
            candidates = vectors.take(of_user, axis=0).astype(np.float32, copy=False)  # (candidates, content_dim)
            np.matmul(candidates, profile, out=into)
        return scores


class BlendRanker:
    """The hybrid blend of the bundle, or of a policy that weighs content otherwise."""

    def __init__(self, spec: BlendSpec) -> None:
        self._spec = spec
        self._by_weight: dict[float, BlendRanker] = {}

    def with_content_weight(self, content_weight: float) -> BlendRanker:
        """The same calibration with another weight; one weight gives one object."""
        ranker = self._by_weight.get(content_weight)
        if ranker is None:
            # A bundle without content has nothing that could be weighed.
            weight = content_weight if self._spec.content is not None else 0.0
            ranker = BlendRanker(replace(self._spec, content_weight=weight))
            self._by_weight[content_weight] = ranker
        return ranker

    @property
    def reads_content(self) -> bool:
        """Whether content counts."""
        return self._spec.content_weight > 0.0

    @property
    def decay_events(self) -> float | None:
        """Decay of the item-item source; None where the blend has none."""
        return None if self._spec.item_item is None else self._spec.item_item.decay_events

    def score(self, pairs: Pairs) -> npt.NDArray[np.float32]:
        """(users, candidates) float32; higher is better."""
        scores = blend(pairs.collaborative, pairs.content, self._spec, pairs.item_item)
        if pairs.unknown is not None:
            others = blend(np.zeros_like(pairs.collaborative), pairs.content, self._spec, pairs.item_item)
            expected = expected_others(pairs.collaborative, others, pairs.unknown.comparable)
            places = pairs.unknown.places
            scores[places] += expected[places] - others[places]
        return scores


class OnnxRanker:
    """An ONNX model over (user, candidate) pairs; reads any of the tensors RANKER_* of the contract."""

    def __init__(self, bundle: Bundle) -> None:
        """Raises BundleCorrupt when ONNX Runtime cannot open it, BundleIncompatible when its tensors are unknown."""
        assert bundle.ranker is not None
        self._name = bundle.ranker.name
        self._session = OnnxSession(bundle.ranker, threads=1)
        self._num_bundle_items = len(bundle.items)
        known = {
            names.RANKER_USER_VECTOR,
            names.RANKER_ITEM_VECTOR,
            names.RANKER_ITEM_INDEX,
            names.RANKER_COLLABORATIVE_SCORE,
            names.RANKER_CONTENT_SCORE,
            names.RANKER_POPULARITY,
        }
        if bundle.user_vocabulary is not None:
            known.add(names.RANKER_USER_INDEX)
        if unknown := sorted(set(self._session.inputs) - known):
            raise BundleIncompatible(f"{self._name} reads {', '.join(unknown)}, which this bundle does not make")
        if names.RANKER_SCORE not in self._session.outputs:
            raise BundleIncompatible(f"{self._name} does not put out {names.RANKER_SCORE}")

    def score(self, pairs: Pairs) -> npt.NDArray[np.float32]:
        """(users, candidates) float32; higher is better. Runs the model, whose time depends on the bundle."""
        num_users, num_candidates = pairs.rows.shape
        flat = pairs.rows.reshape(-1)
        feeds = {name: self._tensor(name, pairs, flat) for name in self._session.inputs}
        return self._session(feeds, names.RANKER_SCORE).reshape(num_users, num_candidates)

    def _tensor(self, name: str, pairs: Pairs, flat: Rows) -> npt.NDArray[np.generic]:
        num_candidates = pairs.rows.shape[1]
        match name:
            case names.RANKER_USER_VECTOR:
                return np.repeat(pairs.user_vectors, num_candidates, axis=0)
            case names.RANKER_ITEM_VECTOR:
                return pairs.catalogue.vectors[flat]
            case names.RANKER_USER_INDEX:
                assert pairs.user_index is not None
                return np.repeat(pairs.user_index, num_candidates)
            case names.RANKER_ITEM_INDEX:
                return encode_index(np.where(flat < self._num_bundle_items, flat, MISSING_ROW))
            case names.RANKER_COLLABORATIVE_SCORE:
                return pairs.collaborative.reshape(-1)
            case names.RANKER_CONTENT_SCORE:
                return pairs.content.reshape(-1)
            case _:
                return pairs.catalogue.popularity_of(flat).astype(np.float32)
