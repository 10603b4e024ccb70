"""Contents of a report, as measured and named; `html` and `model_card` decide its appearance."""

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
    """A test user with their history, their next choices, and the lists that each model would show them."""

    user_id: str
    num_history_events: int
    history: tuple[str, ...]
    """Titles of the newest items, oldest first."""
    targets: tuple[str, ...]
    """Titles of the items that the user chose next."""
    lists: Mapping[str, tuple[ListedItem, ...]]
    """The best items by model name, best first."""


@dataclass(frozen=True, kw_only=True)
class RunReport:
    """Contents of the report of a run."""

    model_version: str
    created_at: str
    """ISO 8601, UTC."""
    facts: Mapping[str, str]
    """Facts about data, model and index, in the order in which they are shown."""
    comparison: Comparison
    """Test metrics; the model as it is served comes first, and is compared with the best of the other models."""
    epochs: tuple[EpochReport, ...]
    best_epoch: int
    index_points: tuple[IndexPoint, ...]
    nprobe: int
    """Number of lists that serving searches."""
    map_points: tuple[MapPoint, ...]
    users: tuple[ExampleUser, ...]
    config_toml: str
    """The training configuration as a file."""
    command: str
    """Command that trains the same model again."""
