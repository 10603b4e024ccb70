"""Arguments that several commands share: the data set, the training configuration, overrides."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tandem.contract.numbers import finite_json
from tandem.contract.whole_files import write_whole
from tandem.ops.arguments import given, path
from trainer.config.help import config_toml, keys_text
from trainer.config.train_config import TrainConfig, load_train_config
from trainer.core.errors import ConfigError
from trainer.data.config import DATA_FORMATS, DataConfig, load_data_config, preset_train_config

if TYPE_CHECKING:
    from trainer.data.prepare import PreparedData
    from trainer.evaluation.comparison import Comparison

_DATA_PREFIX = "data."
_DEFAULT_DATASET = "ml-100k"
_SHORT_KEYS = ("reviews", "meta", "events", "item_changes", "until")


def add_data_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments that choose a data set and override its keys."""
    group = parser.add_argument_group("data set")
    group.add_argument(
        "--dataset",
        type=given,
        metavar="NAME|TOML",
        help=f"name of a preset, or path of a TOML file (default: {_DEFAULT_DATASET})",
    )
    group.add_argument(
        "--reviews", type=given, metavar="PATH", help="short for --set data.reviews=PATH (data set amazon)"
    )
    group.add_argument("--meta", type=given, metavar="PATH", help="short for --set data.meta=PATH (data set amazon)")
    group.add_argument(
        "--events",
        type=given,
        metavar="DIR",
        help="short for --set data.events=DIR: adds the events that feature_sync archives",
    )
    group.add_argument(
        "--item-changes",
        type=given,
        metavar="DIR",
        help="short for --set data.item_changes=DIR: applies the catalogue changes that feature_sync archives",
    )
    group.add_argument(
        "--until",
        type=given,
        metavar="TIME",
        help="short for --set data.until=TIME: events and item changes count for days that began before TIME",
    )
    group.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="override one key: data.KEY of the data set, or SECTION.KEY of the training configuration; repeatable",
    )
    group.add_argument(
        "--help-data", action=_Print, text=_data_keys, help="print every key of a data set's TOML file and exit"
    )


def add_prepared_argument(parser: argparse.ArgumentParser) -> None:
    """Adds --prepared: a folder of prepared data instead of a data set."""
    parser.add_argument(
        "--prepared",
        type=path,
        metavar="DIR",
        help="a folder that `prepare` printed, instead of --dataset and the other arguments of a data set",
    )


def add_config_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments that choose a training configuration."""
    group = parser.add_argument_group("training configuration")
    group.add_argument(
        "--config",
        type=path,
        metavar="TOML",
        help="training configuration (default: the preset's own, or the defaults)",
    )
    group.add_argument(
        "--help-config",
        action=_Print,
        text=lambda: config_toml(TrainConfig()),
        help="print every key with its default as a TOML file that --config takes, and exit",
    )


def add_baselines_argument(parser: argparse.ArgumentParser) -> None:
    """Adds --baselines, the baselines to compare test metrics with."""
    parser.add_argument(
        "--baselines",
        choices=("auto", "all", "tuned", "popularity"),
        default="auto",
        help="baselines to compare the test metrics with; auto: all up to 5,000 items, else popularity; tuned: all, "
        "with hyperparameters that validation chooses from small grids (default: %(default)s)",
    )


def add_output_argument(parser: argparse.ArgumentParser) -> None:
    """Adds --output, the files to which figures are written as well."""
    parser.add_argument("--output", type=path, metavar="PATH", help="write PATH.json and PATH.md too")


def write_comparison(comparison: Comparison, path: Path) -> None:
    """Writes a comparison to PATH.json and PATH.md, for `--output`."""
    from trainer.results.markdown import comparison_text

    write_figures(path, finite_json(comparison.to_dict(), indent=2), comparison_text(comparison))


def write_figures(path: Path, as_json: str, as_markdown: str) -> None:
    """Writes PATH.json and PATH.md, for `--output`. Raises OSError."""
    write_whole(Path(f"{path}.json"), f"{as_json}\n")
    write_whole(Path(f"{path}.md"), f"{as_markdown}\n")


def data_config(options: argparse.Namespace) -> DataConfig:
    """The data set that the arguments name. Raises ConfigError."""
    short = {name: value for name in _SHORT_KEYS if (value := getattr(options, name))}
    overrides = _overrides(options.set)
    for_data = {key.removeprefix(_DATA_PREFIX): value for key, value in overrides.items() if _is_data_key(key)}
    return load_data_config(options.dataset or _DEFAULT_DATASET, {**short, **for_data})


def data_source(options: argparse.Namespace) -> DataConfig | PreparedData:
    """The prepared data of --prepared, or else the data set that the arguments name. Raises ConfigError, DataError."""
    from trainer.data.prepare import load_prepared

    if options.prepared is None:
        return data_config(options)
    if given := data_arguments(options):
        raise ConfigError(f"{given[0]}: describes a data set, but --prepared names data that are prepared already")
    return load_prepared(options.prepared)


def data_arguments(options: argparse.Namespace) -> list[str]:
    """The arguments that describe a data set, as they were given."""
    given = [f"--{name.replace('_', '-')}" for name in ("dataset", *_SHORT_KEYS) if getattr(options, name)]
    return given + [f"--set {key}=..." for key in _overrides(options.set) if _is_data_key(key)]


def train_config(options: argparse.Namespace) -> TrainConfig:
    """The training configuration that the arguments name, or else the preset's. Raises ConfigError."""
    overrides = {key: value for key, value in _overrides(options.set).items() if not _is_data_key(key)}
    return load_train_config(options.config or preset_train_config(_dataset_name(options)), overrides)


def _dataset_name(options: argparse.Namespace) -> str:
    """Name of the data set, a preset of which may have a training configuration. Prepared data hold the name."""
    if getattr(options, "prepared", None) is None:
        return options.dataset or _DEFAULT_DATASET
    from trainer.data.prepare import prepared_name

    return prepared_name(options.prepared)


def _is_data_key(key: str) -> bool:
    return key.startswith(_DATA_PREFIX)


def _overrides(assignments: Sequence[str]) -> Mapping[str, str]:
    overrides = {}
    for assignment in assignments:
        key, separator, value = assignment.partition("=")
        if not separator:
            raise ConfigError(f"--set {assignment}: write KEY=VALUE")
        overrides[key] = value
    return overrides


class _Print(argparse.Action):
    """Prints the result of `text` and ends the program, as --help does."""

    def __init__(self, option_strings: Sequence[str], dest: str, *, text: Callable[[], str], help: str) -> None:
        super().__init__(option_strings, dest, nargs=0, default=argparse.SUPPRESS, help=help)
        self._text = text

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        print(self._text(), end="")
        parser.exit()


def _data_keys() -> str:
    return "".join(f"format {name}:\n\n{keys_text(model)}\n\n" for name, model in DATA_FORMATS.items())
