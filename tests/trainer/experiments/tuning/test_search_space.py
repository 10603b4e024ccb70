"""The search space, and the file of the best settings."""

from __future__ import annotations

import pytest

from trainer.config.help import config_toml
from trainer.config.train_config import TrainConfig, load_train_config
from trainer.core.errors import ConfigError
from trainer.experiments.tuning.config_file import write_config
from trainer.experiments.tuning.search_space import (
    SEARCH_SPACE,
    Choices,
    FloatRange,
    IntRange,
    check_space,
    with_values,
)


def _ends(values: FloatRange | IntRange | Choices) -> tuple:
    return values.values if isinstance(values, Choices) else (values.low, values.high)


def test_every_value_of_the_search_space_is_a_valid_setting() -> None:
    check_space(SEARCH_SPACE)
    for key, values in SEARCH_SPACE.items():
        for value in _ends(values):
            section, _, name = key.partition(".")
            assert getattr(getattr(with_values(TrainConfig(), {key: value}), section), name) == value
    for dim in SEARCH_SPACE["towers.embedding_dim"].values:
        for heads in SEARCH_SPACE["towers.num_heads"].values:
            with_values(TrainConfig(), {"towers.embedding_dim": dim, "towers.num_heads": heads})


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ({}, "nothing to vary"),
        ({"fit.leraning_rate": FloatRange(0.1, 0.2)}, "fit.leraning_rate cannot be varied"),
        ({"text.max_tokens": IntRange(8, 16)}, "text.max_tokens cannot be varied"),
        ({"towers.max_item_categories": IntRange(1, 2)}, "cannot be varied"),
        ({"fit.batch_size": Choices(())}, "has no value"),
        ({"fit.batch_size": IntRange(3, 2)}, "has no value"),
    ],
)
def test_a_wrong_search_space_is_named(space, message) -> None:
    with pytest.raises(ConfigError, match=message):
        check_space(space)


def test_values_that_do_not_go_together_are_named() -> None:
    with pytest.raises(ConfigError, match="num_heads 5"):
        with_values(TrainConfig(), {"towers.num_heads": 5})


def test_a_written_configuration_is_read_as_it_was(tmp_path) -> None:
    values = {
        "towers.user_ids": True,
        "towers.temperature": 0.1 + 0.2,
        "fit.weight_decay": 1.2345678901234567e-06,
        "fit.loss": "sampled",
        "fit.max_epochs": 7,
    }
    config = with_values(TrainConfig(), values)
    config = config.model_copy(
        update={"text": config.text.model_copy(update={"encoder": 'C:\\"models"\\é'}), "ranker": config.ranker}
    )
    write_config(config, tmp_path / "deeper" / "best.toml")
    assert load_train_config(tmp_path / "deeper" / "best.toml", {}) == config
    assert [path.name for path in (tmp_path / "deeper").iterdir()] == ["best.toml"]
    assert "[towers]" in config_toml(config)
