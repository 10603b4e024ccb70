"""Errors in descriptions of data sets."""

from pathlib import Path

import pytest

from trainer.config.train_config import TrainConfig, load_train_config
from trainer.core.errors import ConfigError
from trainer.data.config import (
    AmazonConfig,
    MovieLens100KConfig,
    TableConfig,
    load_data_config,
    preset_names,
    preset_train_config,
)

TABLE = """name = "mine"
format = "table"

[interactions]
path = "rows.csv"
user = "u"
item = "i"
timestamp = "t"
"""


def test_every_preset_loads():
    assert preset_names() == ("amazon", "amazon-beauty-2014", "ml-100k", "ml-1m")
    default = load_data_config("ml-100k", {})
    assert isinstance(default, MovieLens100KConfig)
    assert default.min_rating == 4
    for name in ("ml-1m", "amazon-beauty-2014"):
        assert isinstance(load_data_config(name, {}), TableConfig)
    assert isinstance(load_data_config("amazon", {"reviews": "x.json"}), AmazonConfig)


def test_paths_are_relative_to_the_file_and_overrides_to_the_working_directory(write, tmp_path: Path):
    config = load_data_config(str(write("mine.toml", TABLE)), {})
    assert isinstance(config, TableConfig)
    assert Path(config.folder) == tmp_path
    assert config.interactions.path == "rows.csv"

    config = load_data_config(str(tmp_path / "mine.toml"), {"interactions.path": "other.csv", "folder": "there"})
    assert isinstance(config, TableConfig)
    assert config.interactions.path == str(Path.cwd() / "other.csv")
    assert config.folder == str(Path.cwd() / "there")

    config = load_data_config("amazon", {"reviews": "https://example.org/r.json.gz", "meta": "m.json"})
    assert isinstance(config, AmazonConfig)
    assert config.reviews == "https://example.org/r.json.gz"
    assert config.meta == str(Path.cwd() / "m.json")


def test_overrides_are_typed():
    config = load_data_config("ml-100k", {"min_rating": "3.5", "name": "ml-100k-liberal"})
    assert (config.min_rating, config.name) == (3.5, "ml-100k-liberal")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            TABLE + 'colour = "red"\n',
            r"mine\.toml, line 9: interactions\.colour: unknown key; did you mean 'columns'",
        ),
        ("max_bad = 3\n" + TABLE, r"mine\.toml, line 1: max_bad: unknown key; did you mean 'max_bad_share'\?"),
        ('min_rating = "four"\n' + TABLE, r"line 1: min_rating: .*valid number.*, not 'four'"),
        ("max_bad_share = 2\n" + TABLE, r"line 1: max_bad_share: .*less than or equal to 1, not 2"),
        ('name = "x"\n', r"mine\.toml: format: required, and absent; one of 'table', 'amazon', 'movielens-100k'"),
        (TABLE.replace('user = "u"\n', ""), r"mine\.toml: interactions\.user: required, and absent"),
        (TABLE.replace('timestamp = "t"\n', ""), "line 4: interactions: give timestamp, position or file_order"),
        (TABLE + 'timestamp_unit = "hours"\n', r"interactions\.timestamp_unit: .*'milliseconds'.*, not 'hours'"),
        (TABLE + 'event_type = "e"\nevent_types = { view = "look" }\n', r"event_types\.view: .*'click'.*, not 'look'"),
        (TABLE.replace('"table"', '"tabel"'), "line 2: format: must be one of 'table', 'amazon', 'movielens-100k'"),
        ("min_rating = 4\n" + TABLE, "min_rating needs interactions.rating"),
        (TABLE + 'columns = ["a"]\n', "set header = false"),
        (TABLE + "header = false\n", "interactions: header = false needs columns"),
        (TABLE.replace('"mine"', '"a/b"'), "line 1: name: "),
        ("name = \n", r"mine\.toml: .*line 1"),
    ],
)
def test_mistakes_are_named_with_their_line(write, text: str, message: str):
    with pytest.raises(ConfigError, match=message):
        load_data_config(str(write("mine.toml", text)), {})


@pytest.mark.parametrize(
    ("source", "overrides", "message"),
    [
        ("ml-100m", {}, r"'ml-100m': .*\(amazon, amazon-beauty-2014, ml-100k, ml-1m\)"),
        ("nowhere.toml", {}, "neither a TOML file that exists nor a preset"),
        ("amazon", {}, "preset amazon: reviews: required, and absent"),
        ("ml-100k", {"reviews": "x"}, "reviews: unknown key"),
        ("ml-100k", {"min_rating": "high"}, "override min_rating: .*not 'high'"),
        ("ml-100k", {"name.x": "y"}, "override name.x: name is not a section"),
    ],
)
def test_mistakes_in_the_arguments(source: str, overrides: dict[str, str], message: str):
    with pytest.raises(ConfigError, match=message):
        load_data_config(source, overrides)


def test_a_preset_may_have_a_training_configuration() -> None:
    for name in preset_names():
        path = preset_train_config(name)
        assert path is None or load_train_config(path, {}) != TrainConfig()
    assert preset_train_config("ml-100k") is not None
    assert preset_train_config("amazon") is None
    assert preset_train_config("train/ml-100k") is None
