"""A retrieval source learns from a data set, proposes candidates, and has files in the bundle.

A source that also scores has a share of the blend, see `BlendedSource`. The bundle's format fixes the sources with a
share (`tandem.contract.manifest.BlendSpec`); every other source only proposes candidates.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Protocol, runtime_checkable

import numpy.typing as npt
from numpy import float32

from tandem.contract.bundle import Bundle
from tandem.contract.bundle_contents import BundleParts
from tandem.contract.features import KeyRows, encode_histories, older_rows
from tandem.contract.manifest import BlendSpec, Calibration
from tandem.contract.store import UserState
from tandem.contract.vocabulary import Rows
from trainer.config.train_config import TrainConfig
from trainer.dataset.dataset import Cut
from trainer.evaluation.metrics import PerUser
from trainer.features.encoded import Encoded
from trainer.sources.base.settling import FitTrial


class Histories:
    """Histories of a batch of users, in the rows of a model."""

    def __init__(self, states: Sequence[UserState], vocabulary: KeyRows) -> None:
        self._states = states
        self._vocabulary = vocabulary
        self._longest: Rows | None = None

    def rows(self, num_events: int) -> Rows:
        """The newest known events: (users, num_events) int64, oldest first; MISSING_ROW without an event."""
        if self._longest is None or self._longest.shape[1] < num_events:
            self._longest = encode_histories(self._states, self._vocabulary, num_events).rows
        return self._longest[:, self._longest.shape[1] - num_events :]

    @cached_property
    def older_rows(self) -> list[Rows]:
        """Items chosen before the events of a full history, (n,) int64 for each user; see `features.older_rows`."""
        return older_rows(self._states, self._vocabulary)


class FittedSource(Protocol):
    """A fitted source, in the rows of its model."""

    def candidates(self, histories: Histories) -> Rows:
        """(users, n) int64 for any n; MISSING_ROW without a candidate; rows may repeat."""
        ...

    def write(self, parts: BundleParts) -> BundleParts:
        """Returns `parts` with the files of this source."""
        ...


class Source(Protocol):
    """A retrieval source."""

    @property
    def name(self) -> str:
        """Name in answers: a constant SOURCE_* of `tandem.contract.names`."""
        ...

    def fit(self, encoded: Encoded, cut: Cut, config: TrainConfig) -> FittedSource | None:
        """Learns from the events before the cut in `encoded`; None if the data or the configuration rule it out."""
        ...

    def read(self, bundle: Bundle) -> FittedSource | None:
        """The source that a bundle serves; None if the bundle does not have this source."""
        ...


@dataclass(frozen=True)
class Share:
    """The share of a source in the blend."""

    weight: float
    """0 to 1, of the share that the sources before it in `SOURCES` leave; the two towers have the remaining share."""
    decay_events: float | None = None
    """An event with this many newer events after it weighs 1/e of the newest; None for a source without a decay."""
    whole_history: bool = False
    """Whether items chosen before the events that the online store keeps count too."""
    by_score: bool = False
    """Whether the source proposes the items with its highest scores; if not, the neighbours of the newest items."""


def unweighted(share: Share) -> Share:
    """What the scores of a source depend on: its share without the weight."""
    return replace(share, weight=1.0)


Shares = Mapping[str, Share]
"""Shares by source key; a source without a share is not in the blend."""

SourceScores = Callable[[Histories, Share], npt.NDArray[float32]]
"""Scores, (users, items) float32 in a new array, with a share's decay."""


@runtime_checkable
class FittedBlendedSource(FittedSource, Protocol):
    """A fitted source that also scores items."""

    def scores(self, rows: Rows) -> SourceScores:
        """Returns a function that scores the items `rows`, (items,) int64."""
        ...

    def calibration(self, histories: Histories, share: Share) -> Calibration:
        """Mean and standard deviation of the scores of all items for these users."""
        ...


@dataclass(frozen=True, kw_only=True)
class ShareChoice:
    """The best shares on validation."""

    shares: Shares
    metrics: Mapping[str, PerUser]
    """Metrics of the validation users with these shares."""
    by_weight: Mapping[float, float]
    """Mean of the deciding metric, by every weight of the source that was tried."""


class ShareTrial(Protocol):
    """Validation for the choice of shares."""

    def best(self, tried: Sequence[Shares], key: str) -> ShareChoice:
        """The best of `tried`, which differ in the share of the source `key`; ties go to the first."""
        ...

    def with_users(self, max_users: int) -> ShareTrial:
        """The same trial on at most `max_users` of the validation users."""
        ...


@runtime_checkable
class BlendedSource(Source, Protocol):
    """A source that has a share of the blend."""

    @property
    def key(self) -> str:
        """Name of the scores in `tandem.contract.ranking.blend`, and of the weight in metrics and parameters."""
        ...

    @property
    def label(self) -> str:
        """Name in tables and messages."""
        ...

    @property
    def without(self) -> float | None:
        """The weight to report for a model without this source."""
        ...

    def settle(self, trial: FitTrial, config: TrainConfig) -> TrainConfig:
        """The configuration with the values that this source is fitted with, in place of lists to choose from."""
        ...

    def choose(self, trial: ShareTrial, shares: Shares, config: TrainConfig) -> ShareChoice:
        """Adds the best share of this source to `shares`, which are those of the sources after it in `SOURCES`."""
        ...

    def is_served(self, share: Share) -> bool:
        """Whether a bundle with this share serves the source."""
        ...

    def share_of(self, spec: BlendSpec) -> Share | None:
        """The share that a calibrated blend gives the source; None if the source is not in the blend."""
        ...

    def into(self, spec: BlendSpec, share: Share, calibration: Calibration) -> BlendSpec:
        """Returns `spec` with this share of the source."""
        ...
