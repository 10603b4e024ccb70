"""The bundle's ONNX ranker: a model over (user, candidate) pairs."""

from __future__ import annotations

from typing import ClassVar, Final, Self

import numpy as np
import numpy.typing as npt

from inference_server.model.rankers.ranker import CONTENT, USER_INDEX, RankerBatch, Scores
from tandem.contract import names
from tandem.contract.bundle import Bundle
from tandem.contract.errors import BundleIncompatible
from tandem.contract.features import encode_index
from tandem.contract.vocabulary import MISSING_ROW, Rows
from tandem.ops.onnx_session import OnnxSession

_SCORE_PART: Final = "ranker"


class OnnxRanker:
    """Reads any of the tensors RANKER_* of `tandem.contract.names`: a model with any of these inputs needs no change
    here."""

    name: ClassVar[str] = "onnx"
    runs_long: ClassVar[bool] = True

    def __init__(self, bundle: Bundle) -> None:
        """Raises BundleCorrupt when ONNX Runtime cannot open it, BundleIncompatible when its tensors are unknown."""
        assert bundle.ranker is not None
        self._name = bundle.ranker.name
        self._session = OnnxSession(bundle.ranker, threads=1)
        self._num_bundle_items = len(bundle.items)
        self.reads = frozenset({CONTENT, USER_INDEX})
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

    @classmethod
    def open(cls, bundle: Bundle) -> Self | None:
        """See `Ranker.open`. Raises BundleCorrupt, BundleIncompatible."""
        return None if bundle.ranker is None else cls(bundle)

    def with_content_weight(self, content_weight: float) -> OnnxRanker:  # noqa: ARG002 - the model weighs by itself
        """See `Ranker.with_content_weight`."""
        return self

    def score(self, batch: RankerBatch) -> Scores:
        """See `Ranker.score`. Runs the model, whose time depends on the bundle."""
        num_users, num_candidates = batch.rows.shape
        flat_rows = batch.rows.reshape(-1)
        feeds = {name: self._tensor(name, batch, flat_rows) for name in self._session.inputs}
        return self._session(feeds, names.RANKER_SCORE).reshape(num_users, num_candidates)

    def parts(self, scores: Scores) -> tuple[tuple[str, Scores], ...]:
        """See `Ranker.parts`."""
        return ((_SCORE_PART, scores),)

    def _tensor(self, name: str, batch: RankerBatch, flat_rows: Rows) -> npt.NDArray[np.generic]:
        num_candidates = batch.rows.shape[1]
        match name:
            case names.RANKER_USER_VECTOR:
                return np.repeat(batch.user_vectors, num_candidates, axis=0)
            case names.RANKER_ITEM_VECTOR:
                return batch.catalogue.vectors[flat_rows]
            case names.RANKER_USER_INDEX:
                assert batch.user_index is not None
                return np.repeat(batch.user_index, num_candidates)
            case names.RANKER_ITEM_INDEX:
                return encode_index(np.where(flat_rows < self._num_bundle_items, flat_rows, MISSING_ROW))
            case names.RANKER_COLLABORATIVE_SCORE:
                return batch.collaborative.reshape(-1)
            case names.RANKER_CONTENT_SCORE:
                return batch.content.reshape(-1)
            case _:
                return batch.catalogue.popularity_of(flat_rows).astype(np.float32)
