"""What a retrieval source is: it learns from a data set, proposes candidates, and has files in the bundle.

A source that also scores has a share of the blend, see `BlendedSource`. The bundle's format knows which sources have
one (`tandem.contract.manifest.BlendSpec`); every other source proposes candidates alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy.typing as npt
from numpy import float32

from tandem.contract.bundle import Bundle
from tandem.contract.bundle_contents import BundleParts
from tandem.contract.features import KeyRows, encode_histories
from tandem.contract.manifest import BlendSpec, Calibration
from tandem.contract.store import UserState
from tandem.contract.vocabulary import Rows
from trainer.config.train_config import TrainConfig
from trainer.dataset.dataset import Cut
from trainer.evaluation.metrics import PerUser
from trainer.features.encoded import Encoded


class Histories:
    """Histories of some users, in the rows of a model."""

    def __init__(self, states: Sequence[UserState], vocabulary: KeyRows) -> None:
        self._states = states
        self._vocabulary = vocabulary
        self._longest: Rows | None = None

    def rows(self, num_events: int) -> Rows:
        """The newest known events: (users, num_events) int64, oldest first, MISSING_ROW where there is no event."""
        if self._longest is None or self._longest.shape[1] < num_events:
            self._longest = encode_histories(self._states, self._vocabulary, num_events).rows
        return self._longest[:, self._longest.shape[1] - num_events :]


class FittedSource(Protocol):
    """What a source has learned, in the rows of its model."""

    def candidates(self, histories: Histories) -> Rows:
        """(users, n) int64 for any n, MISSING_ROW where there is no candidate; rows may repeat."""
        ...

    def write(self, parts: BundleParts) -> BundleParts:
        """`parts` with the files of this source."""
        ...


class Source(Protocol):
    """A retrieval source."""

    @property
    def name(self) -> str:
        """As answers name it: a constant SOURCE_* of `tandem.contract.names`."""
        ...

    def fit(self, encoded: Encoded, cut: Cut, config: TrainConfig) -> FittedSource | None:
        """Learns from what comes before the cut in `encoded`; None where the data or the configuration rule it out."""
        ...

    def read(self, bundle: Bundle) -> FittedSource | None:
        """The source that a bundle serves; None where it has none."""
        ...


@dataclass(frozen=True)
class Share:
    """How much a source counts in the blend."""

    weight: float
    """0 to 1, of what the sources before it in `SOURCES` leave; the two towers have the rest."""
    decay_events: float | None = None
    """An event that this many newer ones follow counts 1/e of the newest; None for a source without a decay."""


Shares = Mapping[str, Share]
"""By the keys of the sources; a source that is not among them is not in the blend."""

SourceScores = Callable[[Histories, Share], npt.NDArray[float32]]
"""Scores of (users, items) float32, of its own, for a share's decay."""


@runtime_checkable
class FittedBlendedSource(FittedSource, Protocol):
    """What a source has learned that also scores items."""

    def scores(self, rows: Rows) -> SourceScores:
        """Scores the items `rows`, (items,) int64."""
        ...

    def calibration(self, histories: Histories, share: Share) -> Calibration:
        """Mean and standard deviation of the scores of all items for these users."""
        ...


@dataclass(frozen=True, kw_only=True)
class ShareChoice:
    """The shares that are best on validation."""

    shares: Shares
    metrics: Mapping[str, PerUser]
    """Of the validation users, by these shares."""
    by_weight: Mapping[float, float]
    """Mean of the metric that decides, by every weight of the source that was tried."""


class ShareTrial(Protocol):
    """Validation, to choose shares by."""

    def best(self, tried: Sequence[Shares], key: str) -> ShareChoice:
        """The best of some shares, which differ in the share of the source `key`; of equally good ones the first."""
        ...

    def of_users(self, most: int) -> ShareTrial:
        """The same by at most that many of the validation users."""
        ...


@runtime_checkable
class BlendedSource(Source, Protocol):
    """A source that has a share of the blend."""

    @property
    def key(self) -> str:
        """Name of its scores in `tandem.contract.ranking.blend`, and of its weight in metrics and parameters."""
        ...

    @property
    def label(self) -> str:
        """Its name in tables and messages."""
        ...

    @property
    def without(self) -> float | None:
        """The weight that is reported of a model without this source."""
        ...

    def choose(self, trial: ShareTrial, shares: Shares, config: TrainConfig) -> ShareChoice:
        """Adds the best share of this source to those already chosen, of the sources that have what it leaves."""
        ...

    def is_served(self, share: Share) -> bool:
        """Whether a bundle with this share has the source at all."""
        ...

    def share_of(self, spec: BlendSpec) -> Share | None:
        """The share that a calibrated blend gives the source; None where it has none."""
        ...

    def into(self, spec: BlendSpec, share: Share, calibration: Calibration) -> BlendSpec:
        """`spec` where the source has this share."""
        ...
