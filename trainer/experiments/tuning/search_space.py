"""The settings that tuning may vary, and their ranges. A setting is named SECTION.KEY of the training configuration."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Final

from pydantic import ValidationError

from trainer.config.train_config import TrainConfig
from trainer.core.config_problems import ConfigText, describe_problems, keys_of
from trainer.core.errors import ConfigError

Value = bool | int | float | str


@dataclass(frozen=True)
class FloatRange:
    """Real numbers from `low` to `high`."""

    low: float
    high: float
    log: bool = False
    """Whether values are drawn uniformly on a logarithmic scale."""


@dataclass(frozen=True)
class IntRange:
    """Whole numbers from `low` to `high`, both included."""

    low: int
    high: int


@dataclass(frozen=True)
class Choices:
    """One of the given values."""

    values: tuple[Value, ...]


SearchSpace = Mapping[str, FloatRange | IntRange | Choices]

SEARCH_SPACE: Final[SearchSpace] = {
    "towers.embedding_dim": Choices((32, 64, 128)),
    "towers.history_length": Choices((20, 50, 100, 200)),
    "towers.num_layers": IntRange(1, 3),
    "towers.num_heads": Choices((1, 2, 4)),
    "towers.dropout": FloatRange(0.0, 0.5),
    "towers.item_dropout": FloatRange(0.0, 0.3),
    "towers.item_id_dropout": FloatRange(0.0, 0.5),
    "towers.temperature": FloatRange(0.03, 0.3, log=True),
    "fit.learning_rate": FloatRange(3e-4, 1e-2, log=True),
    "fit.weight_decay": FloatRange(1e-6, 1e-1, log=True),
    "fit.batch_size": Choices((64, 128, 256)),
    "fit.loss": Choices(("auto", "sampled")),
    "fit.num_negatives": Choices((256, 512, 1024, 2048)),
    "fit.negative_alpha": FloatRange(0.0, 1.0),
}
"""All settings that change how the towers learn. Settings of the encoding are fixed: trials share encoded data."""

_ENCODED: Final = frozenset({"towers.max_item_categories"})
_SECTIONS: Final = ("towers", "fit", "ranker", "ncf")


def check_space(space: SearchSpace) -> None:
    """Raises ConfigError for a setting that cannot be tuned, or a range without values."""
    if not space:
        raise ConfigError("tuning: there is nothing to vary")
    sections = {name: type(getattr(TrainConfig(), name)).model_fields for name in _SECTIONS}
    for key, values in space.items():
        section, _, name = key.partition(".")
        if name not in sections.get(section, {}) or key in _ENCODED:
            raise ConfigError(f"tuning: {key} cannot be varied; allowed are settings of {', '.join(_SECTIONS)}")
        empty = not values.values if isinstance(values, Choices) else values.low > values.high
        if empty:
            raise ConfigError(f"tuning: the range of {key} has no values")


def with_values(config: TrainConfig, values: Mapping[str, Value]) -> TrainConfig:
    """The configuration with `values` in it. Raises ConfigError for values that do not go together."""
    raw = config.model_dump()
    for key, value in values.items():
        section, _, name = key.partition(".")
        raw[section][name] = value
    try:
        return TrainConfig.model_validate(raw)
    except ValidationError as error:
        source = ConfigText(label="search space", text="")
        raise ConfigError(describe_problems(error, source, partial(keys_of, TrainConfig))) from error
