"""The stages, one function each, in the order of dvc.yaml."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import yaml

from deploy.pipeline.errors import StageFailed
from deploy.pipeline.parameters import Parameters

PIPELINE: Final = Path(".tandem", "pipeline")
"""The trainer's data folder, which holds the paths of dvc.yaml."""
PREPARED: Final = PIPELINE / "prepared"
"""Holds one folder of prepared data: DVC empties it before `ingest`."""
EMBEDDINGS: Final = PIPELINE / "embeddings"
TRAINED: Final = PIPELINE / "trained.json"
QUALITY: Final = PIPELINE / "quality"
"""Prefix of the files that `trainer evaluate` writes."""
METRICS: Final = PIPELINE / "metrics.json"
BUNDLE: Final = PIPELINE / "bundle"
_LOCK: Final = Path("dvc.lock")
_SHOWN_METRICS: Final = ("ndcg@10", "recall@10", "mrr@10", "novelty@10")


def ingest(parameters: Parameters) -> None:
    """Source files and events to prepared data."""
    _trainer("prepare", *parameters.data_arguments)


def features(parameters: Parameters) -> None:
    """Texts to embeddings; existing embeddings are kept."""
    EMBEDDINGS.mkdir(parents=True, exist_ok=True)  # a catalogue without texts has no embeddings
    _trainer("features", "--prepared", str(prepared_folder()), *parameters.text_arguments)


def train(parameters: Parameters) -> None:
    """Prepared data to a registered version, under no alias."""
    what = ("--prepared", str(prepared_folder()), "--data-version", data_version(), "--no-promote")
    printed = _trainer("train", *what, "--baselines", "popularity", *parameters.train_arguments)
    TRAINED.write_text(printed.strip().rpartition("\n")[2] + "\n")


def evaluate(parameters: Parameters) -> None:
    """The version's metrics beside the baselines; those of `dvc metrics show` in a file of their own."""
    what = ("--model", _version(), "--prepared", str(prepared_folder()), "--output", str(QUALITY))
    _trainer("evaluate", *what, "--baselines", parameters.evaluate["baselines"], *parameters.train_arguments)
    models = json.loads(Path(f"{QUALITY}.json").read_text())["models"]
    shown = {
        model: {name: report["metrics"][name]["mean"] for name in _SHOWN_METRICS} for model, report in models.items()
    }
    METRICS.write_text(json.dumps(shown, indent=2) + "\n")


def export(parameters: Parameters) -> None:  # noqa: ARG001 - every stage takes them
    """The version's bundle as a folder."""
    _trainer("export", "--model", _version(), "--output", str(BUNDLE))


STAGES: Final[Mapping[str, Callable[[Parameters], None]]] = {
    stage.__name__: stage for stage in (ingest, features, train, evaluate, export)
}


def prepared_folder() -> Path:
    """The folder that `ingest` made. Raises StageFailed."""
    found = list(PREPARED.iterdir()) if PREPARED.is_dir() else []
    if len(found) != 1:
        raise StageFailed(f"{PREPARED} holds {len(found)} folders, not 1: run `dvc repro ingest`")
    return found[0]


def data_version() -> str:
    """DVC's name of the prepared data: the hash in dvc.lock. Raises StageFailed."""
    try:
        outputs = yaml.safe_load(_LOCK.read_text())["stages"]["ingest"]["outs"]
        return str(next(output["md5"] for output in outputs if output["path"] == PREPARED.as_posix()))
    except (OSError, KeyError, TypeError, StopIteration) as error:
        raise StageFailed(f"{_LOCK} does not know {PREPARED}: run `dvc repro`, which calls the stages") from error


def _version() -> str:
    return str(json.loads(TRAINED.read_text())["registry_version"])


def _trainer(*arguments: str) -> str:
    """Runs a command of the trainer; returns and shows its output. Raises StageFailed."""
    environment: dict[str, Any] = {**os.environ, "TANDEM_DATA_DIR": str(PIPELINE.resolve())}
    command = [sys.executable, "-m", "trainer", *arguments]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=False)
    print(done.stdout, end="", flush=True)
    if done.returncode != 0:
        raise StageFailed(f"python -m trainer {arguments[0]} ended with status {done.returncode}")
    return done.stdout
