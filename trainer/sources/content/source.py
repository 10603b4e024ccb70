"""The content source: vectors of texts and categories, and the nearest items of each item by these vectors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Final

import numpy as np
import numpy.typing as npt

from tandem.contract import names
from tandem.contract.bundle import Bundle
from tandem.contract.bundle_contents import BundleParts, Content
from tandem.contract.candidates import CONTENT_NEIGHBOUR_CANDIDATES, CONTENT_NEIGHBOURS_OF, neighbour_rows
from tandem.contract.manifest import BlendSpec, Calibration
from tandem.contract.ranking import PROFILE_EVENTS, content_profiles
from tandem.contract.vocabulary import Rows
from trainer.config.train_config import TrainConfig
from trainer.dataset.dataset import Cut
from trainer.features.encoded import Encoded
from trainer.sources.base.calibration import calibration_of_products
from trainer.sources.base.settling import FitTrial
from trainer.sources.base.source import FittedSource, Histories, Share, ShareChoice, Shares, ShareTrial, SourceScores
from trainer.vectors.faiss_index import nearest_items


@dataclass(frozen=True)
class FittedContent:
    """Content vectors of a model's items."""

    vectors: npt.NDArray[np.float16]
    """(items, content_dim) float16."""
    num_neighbours: int
    stored_neighbours: npt.NDArray[np.int32] | None = None
    """(items, num_neighbours) int32 as a bundle holds them; None: computed on first use."""

    @cached_property
    def neighbours(self) -> npt.NDArray[np.int32]:
        """(items, num_neighbours) int32, most similar first."""
        if self.stored_neighbours is not None:
            return self.stored_neighbours
        return nearest_items(self.vectors.astype(np.float32), self.num_neighbours)

    def profiles(self, histories: Histories) -> npt.NDArray[np.float32]:
        """Content profiles of users, as serving makes them: (users, content_dim) float32."""
        return content_profiles(self.vectors, histories.rows(PROFILE_EVENTS))

    def candidates(self, histories: Histories) -> Rows:
        """(users, CONTENT_NEIGHBOUR_CANDIDATES) int64."""
        near = neighbour_rows(
            self.neighbours,
            histories.rows(PROFILE_EVENTS),
            CONTENT_NEIGHBOUR_CANDIDATES,
            num_events=CONTENT_NEIGHBOURS_OF,
        )
        return near[:, :CONTENT_NEIGHBOUR_CANDIDATES]

    def scores(self, rows: Rows) -> SourceScores:
        """Inner products of profiles and vectors."""
        vectors = self.vectors[rows].astype(np.float32)
        return lambda histories, _: self.profiles(histories) @ vectors.T

    def calibration(self, histories: Histories, share: Share) -> Calibration:  # noqa: ARG002 - content has no decay
        """Calibration over all items."""
        return calibration_of_products(self.profiles(histories), self.vectors)

    def write(self, parts: BundleParts) -> BundleParts:
        """Adds vectors and neighbours."""
        return replace(parts, content=Content(self.vectors, self.neighbours))


@dataclass(frozen=True)
class ContentSource:
    """Retrieval by the texts and categories of a catalogue."""

    name: str = names.SOURCE_CONTENT_NEIGHBOURS
    key: str = "content"
    label: str = "content"
    without: float | None = None

    def fit(self, encoded: Encoded, cut: Cut, config: TrainConfig) -> FittedSource | None:  # noqa: ARG002 - reads no events
        """Takes the content vectors; reads no interactions. None for a catalogue without texts and categories."""
        if encoded.content_vectors is None:
            return None
        return FittedContent(encoded.content_vectors, config.content.num_neighbours)

    def read(self, bundle: Bundle) -> FittedContent | None:
        """Vectors and neighbours as the bundle holds them."""
        if bundle.content is None:
            return None
        neighbours = bundle.content.neighbours
        return FittedContent(bundle.content.vectors, neighbours.shape[1], neighbours)

    def settle(self, trial: FitTrial, config: TrainConfig) -> TrainConfig:  # noqa: ARG002 - nothing is fitted
        """As it is: content vectors are made before any events are read."""
        return config

    def choose(self, trial: ShareTrial, shares: Shares, config: TrainConfig) -> ShareChoice:
        """Tries `ranker.content_weights`."""
        return trial.best([{**shares, self.key: Share(weight)} for weight in config.ranker.content_weights], self.key)

    def is_served(self, share: Share) -> bool:  # noqa: ARG002 - at any weight
        """Always True: the candidates are useful at weight 0 too."""
        return True

    def share_of(self, spec: BlendSpec) -> Share | None:
        """None in a blend without content."""
        return None if spec.content is None else Share(spec.content_weight)

    def into(self, spec: BlendSpec, share: Share, calibration: Calibration) -> BlendSpec:
        """Content is first in `SOURCES`, so its weight is that of the whole score."""
        return replace(spec, content_weight=share.weight, content=calibration)


CONTENT: Final = ContentSource()


def content_of(sources: Mapping[str, FittedSource]) -> FittedContent | None:
    """The content source of a model; None if the model does not have one."""
    found = sources.get(CONTENT.name)
    assert found is None or isinstance(found, FittedContent)
    return found
