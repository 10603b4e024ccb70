"""What a report holds, measured and named; how it looks is for `html` and `model_card`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from trainer.evaluation.comparison import Comparison
from trainer.training.progress import EpochReport
from trainer.vectors.faiss_index import IndexPoint


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
    facts: Mapping[str, str]
    """Of data, model and index, in the order in which they are shown."""
    comparison: Comparison
    """Test metrics; the model as it is served comes first, and is compared with the best of the others."""
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
