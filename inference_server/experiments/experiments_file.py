"""The file of experiments, for those who have no Unleash: YAML of the shape of Unleash's feature definitions.

    features:
      - name: homepage                      # a flag is a layer: a user is in one arm of it at most
        strategies:
          - name: flexibleRollout
            parameters: {rollout: 5}        # percent of the users
            variants:
              - {name: control, payload: {type: json, value: {experiment: new-ranker}}}
              - {name: treatment, payload: {type: json, value: {experiment: new-ranker, scenario: home-new}}}

What Unleash's own forms fill in is filled in here as well: the salt (`groupId`, the flag's name), the stickiness
(`default`, the user's id, else `sessionId` of the context), a share of 5 % of the users, and equal weights.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from inference_server.core.errors import ExperimentsInvalid
from inference_server.experiments.table import FULL_WEIGHT, NOTHING_KNOWN, Known, make_table, plain_document
from inference_server.policy.yaml_lines import YamlInvalid, read_yaml
from tandem.contract.experiments import DEFAULT_STICKINESS, ExperimentTable
from tandem.contract.whole_files import read_whole

DEFAULT_ROLLOUT: Final = 5
"""Percent of the users that a strategy is on for which does not say it."""
_MAX_FILE_BYTES: Final = 256 * 1024


class ExperimentsFile:
    """The definitions of one file, as they were read."""

    def __init__(self, path: Path) -> None:
        """Raises ExperimentsInvalid if the file cannot be read, or is no YAML."""
        try:
            content = read_whole(path)
        except OSError as error:
            raise ExperimentsInvalid((f"{path}: cannot be read: {error.strerror}",)) from error
        if len(content) > _MAX_FILE_BYTES:
            raise ExperimentsInvalid((f"{path}: has more than {_MAX_FILE_BYTES} bytes",))
        try:
            self._yaml = read_yaml(content)
        except YamlInvalid as error:
            raise ExperimentsInvalid((f"{path}:{error.line}: {error.problem}",)) from error
        if self._yaml.value is None:
            # An empty file is most likely half written: the experiments in force are better than none.
            raise ExperimentsInvalid((f"{path}:1: is empty; for no experiments write `features: []`",))
        self._path = path
        self.document: Final = _filled_in(plain_document(self._yaml.value))
        """The definitions with everything filled in, as Unleash would send them."""

    def table(self, known: Known = NOTHING_KNOWN) -> ExperimentTable:
        """The table. Raises ExperimentsInvalid, which names the line of every problem."""
        return make_table(self.document, locate=self._locate, known=known)

    def _locate(self, flag: int, path: tuple[str | int, ...]) -> str:
        at = path if flag < 0 else ("features", flag, *path)
        return f"{self._path}:{self._yaml.line_of(at)}"


def _filled_in(document: dict[str, Any]) -> dict[str, Any]:
    features = document["features"]
    if not isinstance(features, list):
        return document
    return {**document, "features": [_flag(flag) if isinstance(flag, dict) else flag for flag in features]}


def _flag(flag: dict[str, Any]) -> dict[str, Any]:
    strategies = flag.get("strategies", [{"name": "flexibleRollout"}])
    if not isinstance(strategies, list):
        return flag
    filled = [_strategy(strategy, flag) if isinstance(strategy, dict) else strategy for strategy in strategies]
    stickiness = next((_stickiness(strategy) for strategy in filled if isinstance(strategy, dict)), DEFAULT_STICKINESS)
    return {**flag, "strategies": filled, "variants": _variants(flag.get("variants", []), stickiness)}


def _strategy(strategy: dict[str, Any], flag: Mapping[str, Any]) -> dict[str, Any]:
    filled = {"name": "flexibleRollout", **strategy}
    parameters = strategy.get("parameters", {})
    if filled["name"] == "flexibleRollout" and isinstance(parameters, dict):
        defaults = {"rollout": DEFAULT_ROLLOUT, "stickiness": DEFAULT_STICKINESS, "groupId": flag.get("name", "")}
        filled["parameters"] = {
            key: str(value) if isinstance(value, int | float) and not isinstance(value, bool) else value
            for key, value in {**defaults, **parameters}.items()
        }
    return {**filled, "variants": _variants(strategy.get("variants", []), _stickiness(filled))}


def _stickiness(strategy: Mapping[str, Any]) -> str:
    parameters = strategy.get("parameters")
    stickiness = parameters.get("stickiness") if isinstance(parameters, dict) else None
    return stickiness if isinstance(stickiness, str) else DEFAULT_STICKINESS


def _variants(variants: Any, stickiness: str) -> Any:
    """Variants with their stickiness, and with weights: those without one share what the others leave."""
    if not isinstance(variants, list) or not all(isinstance(variant, dict) for variant in variants):
        return variants
    given = sum(variant["weight"] for variant in variants if isinstance(variant.get("weight"), int))
    without = [index for index, variant in enumerate(variants) if "weight" not in variant]
    left = max(FULL_WEIGHT - given, 0)
    share, rest = divmod(left, len(without)) if without else (0, 0)
    weights = {index: share + (number < rest) for number, index in enumerate(without)}
    return [
        {"stickiness": stickiness, **variant, **_payload(variant), "weight": variant.get("weight", weights.get(index))}
        for index, variant in enumerate(variants)
    ]


def _payload(variant: Mapping[str, Any]) -> dict[str, Any]:
    """A payload that is written as a mapping, as the text that Unleash holds."""
    payload = variant.get("payload")
    if not isinstance(payload, dict) or not isinstance(payload.get("value"), dict):
        return {}
    return {"payload": {"type": "json", **payload, "value": json.dumps(payload["value"], default=str)}}
