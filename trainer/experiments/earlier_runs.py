"""Evaluations of earlier runs, from the registry or from folders, under unique names."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from tqdm import tqdm

from trainer.core.errors import ConfigError, DataError
from trainer.evaluation.comparison import Comparison, compare
from trainer.evaluation.evaluation import Evaluation
from trainer.experiments.test_set_metrics import SERVED, TWO_TOWERS, best_of
from trainer.registry.registry import EVALUATIONS, Registry
from trainer.results.saved_evaluations import evaluation_directories, load_evaluation


def compare_earlier(sources: Sequence[str], registry: Registry, *, against: str = "") -> Comparison:
    """Compares runs, with every baseline that they were measured against.

    A source is the number of a registered version, an alias, or a folder with evaluations at any depth. Evaluations
    with the same name and ranks in two sources appear once. All others are tested against the evaluation named
    `against`; empty: the best evaluation that is not of the first source's model.

    Raises ConfigError for an invalid source, an unknown `against` or fewer than two evaluations; RegistryError and
    DataError for evaluations that cannot be downloaded, read or compared.
    """
    found: dict[str, Evaluation] = {}
    for source in tqdm(sources, desc="reading evaluations", unit="run"):
        for evaluation in _evaluations_of(source, registry):
            _add(found, evaluation, source)
    evaluations = list(found.values())
    if len(evaluations) < 2:
        raise ConfigError("there is only one evaluation, so there is nothing to compare it with")
    return compare(evaluations, baseline=against or best_of(evaluations[1:]))


def _evaluations_of(source: str, registry: Registry) -> list[Evaluation]:
    folder = Path(source)
    if folder.is_dir():
        directories = evaluation_directories(folder)
        if not directories:
            raise DataError(f"{folder}: no evaluation in this folder or below it")
        return [load_evaluation(directory) for directory in directories]
    if len(folder.parts) > 1:
        raise ConfigError(f"{source}: no such folder")
    version = registry.find(source)
    with tempfile.TemporaryDirectory(prefix="tandem-evaluations-") as scratch:
        directory = registry.download_artifacts(version, EVALUATIONS, Path(scratch))
        evaluations = [load_evaluation(path) for path in evaluation_directories(directory)]
    model = f"version {version.number}"
    names = {SERVED: model, TWO_TOWERS: f"{model}, {TWO_TOWERS}"}
    return [replace(evaluation, name=names.get(evaluation.name, evaluation.name)) for evaluation in evaluations]


def _add(found: dict[str, Evaluation], evaluation: Evaluation, source: str) -> None:
    name = evaluation.name
    if name in found:
        if np.array_equal(found[name].ranks, evaluation.ranks):
            return
        name = f"{name} ({source})"
    found[name] = replace(evaluation, name=name)
