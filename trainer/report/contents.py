"""What a report holds, measured and named; how it looks is for `html` and `model_card`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from trainer.evaluation.metrics import Interval
from trainer.export.index import IndexPoint
from trainer.training.fit import EpochReport


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One model or baseline on the test items."""

    name: str
    metrics: Mapping[str, Interval]
    """By name, as "ndcg@10"; the interval is over users, 95 %."""
    segments: Mapping[str, Segment] = field(default_factory=dict)
    """By name, as "users: cold"."""
    whole_lists: Mapping[str, float] = field(default_factory=dict)
    """What has no mean over users, by name: coverage, Gini index and the like."""


@dataclass(frozen=True, kw_only=True)
class Segment:
    """A part of the users or of the items."""

    num_users: int
    """Users that were evaluated in it."""
    metrics: Mapping[str, Interval]


@dataclass(frozen=True, kw_only=True)
class Difference:
    """What the model has over one baseline for the same users: a paired comparison."""

    baseline: str
    metric: str
    interval: Interval
    p_value: float | None = None
    """Of the paired test; None where only the interval was taken."""


@dataclass(frozen=True, kw_only=True)
class MapPoint:
    """An item in two dimensions."""

    x: float
    y: float
    title: str
    category: str


@dataclass(frozen=True, kw_only=True)
class ListedItem:
    """An item of a list."""

    title: str
    is_target: bool
    """Whether the user chose it next."""


@dataclass(frozen=True, kw_only=True)
class ExampleUser:
    """One test user, what they chose before, and what they would be shown."""

    user_id: str
    num_history_events: int
    history: tuple[str, ...]
    """Titles of the newest items, oldest first."""
    targets: tuple[str, ...]
    """Titles of what the user chose next."""
    lists: Mapping[str, tuple[ListedItem, ...]]
    """Per model the best items, best first."""


@dataclass(frozen=True, kw_only=True)
class RunReport:
    """Everything that a report says of one run."""

    model_version: str
    created_at: str
    """ISO 8601, UTC."""
    protocol: str
    """How the test items were chosen and ranked, in a sentence."""
    num_test_users: int
    facts: Mapping[str, str]
    """Of data, model and index, in the order in which they are shown."""
    measured: tuple[Measured, ...]
    """The model as it is served comes first."""
    differences: tuple[Difference, ...]
    epochs: tuple[EpochReport, ...]
    best_epoch: int
    index_points: tuple[IndexPoint, ...]
    nprobe: int
    """Lists that serving searches."""
    map_points: tuple[MapPoint, ...]
    users: tuple[ExampleUser, ...]
    config_toml: str
    """The training configuration as a file."""
    command: str
    """How to train the same again."""
