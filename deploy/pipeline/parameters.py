"""params.yaml: the parameters that people change between two runs of `dvc repro`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml

from deploy.pipeline.errors import ParametersError

PARAMETERS: Final = Path("params.yaml")
_OPTIONS_OF_DATA: Final = ("events", "item_changes", "until")


@dataclass(frozen=True, kw_only=True)
class Parameters:
    """The parameters of the stages."""

    data: Mapping[str, str]
    """dataset, source, events, item_changes, until."""
    text: Mapping[str, Any]
    """The section `text` of the training configuration, which `features` reads too."""
    train: Mapping[str, Any]
    """Its other sections, by name."""
    evaluate: Mapping[str, str]
    """baselines."""

    @property
    def data_arguments(self) -> tuple[str, ...]:
        """The data set as arguments of `python -m trainer prepare`."""
        given = [(f"--{key.replace('_', '-')}", self.data.get(key)) for key in _OPTIONS_OF_DATA]
        chosen = [word for option, value in given if value for word in (option, str(value))]
        return ("--dataset", self.data["dataset"], *chosen)

    @property
    def text_arguments(self) -> tuple[str, ...]:
        """Overrides of the section `text`."""
        return tuple(_overrides("text", self.text))

    @property
    def train_arguments(self) -> tuple[str, ...]:
        """Overrides of every section."""
        overrides = [word for section, keys in self.train.items() for word in _overrides(section, keys)]
        return (*self.text_arguments, *overrides)


def load_parameters(path: Path = PARAMETERS) -> Parameters:
    """Reads the file. Raises ParametersError."""
    try:
        raw = yaml.safe_load(path.read_text())
        parameters = Parameters(**{section: raw[section] or {} for section in Parameters.__dataclass_fields__})
        parameters.data["dataset"], parameters.evaluate["baselines"]
    except OSError as error:
        raise ParametersError(f"{path}: {error.strerror}") from error
    except yaml.YAMLError as error:
        raise ParametersError(f"{path}: {error}") from error
    except (KeyError, TypeError) as error:
        raise ParametersError(f"{path}: {error} is missing") from error
    return parameters


def _overrides(section: str, keys: Mapping[str, Any]) -> Iterator[str]:
    for key, value in keys.items():
        yield "--set"
        yield f"{section}.{key}={','.join(map(str, value)) if isinstance(value, list) else value}"
