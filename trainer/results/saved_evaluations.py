"""Evaluations as files, so that any earlier runs can be compared.

A directory holds `evaluation.json`, for people (the means in it are not read back), and `evaluation.npz`, the ranks and
each user's list metrics.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from tandem.contract.numbers import finite_json
from trainer.core.errors import DataError
from trainer.evaluation.evaluation import Evaluation

_FORMAT: Final = 1
_JSON: Final = "evaluation.json"
_ARRAYS: Final = "evaluation.npz"
_LIST_PREFIX: Final = "list/"


def save_evaluation(evaluation: Evaluation, directory: Path) -> None:
    """Writes an evaluation into `directory`, which is created if needed; replaces an earlier evaluation's files."""
    directory.mkdir(parents=True, exist_ok=True)
    arrays: dict[str, Any] = {
        "ranks": evaluation.ranks.astype(np.int32),
        "target_offsets": evaluation.target_offsets,
        "num_known_events": evaluation.num_known_events.astype(np.int32),
        "head_targets": evaluation.head_targets,
        **{f"{_LIST_PREFIX}{name}": values for name, values in evaluation.list_metrics.items()},
    }
    np.savez_compressed(directory / _ARRAYS, **arrays)
    described = {
        "format": _FORMAT,
        "name": evaluation.name,
        "protocol": evaluation.protocol,
        "part": evaluation.split,
        "question": evaluation.question,
        "num_users": evaluation.num_users,
        "totals": dict(evaluation.totals),
        "means": evaluation.means(),
    }
    (directory / _JSON).write_text(finite_json(described, indent=2) + "\n")


def save_evaluations(evaluations: Sequence[Evaluation], directory: Path) -> None:
    """Writes each evaluation into its own folder below `directory`, numbered from 00."""
    for number, evaluation in enumerate(evaluations):
        save_evaluation(evaluation, directory / f"{number:02d}")


def load_evaluation(directory: Path) -> Evaluation:
    """Reads what `save_evaluation` wrote. Raises DataError if the files are missing, damaged or of another format."""
    try:
        described = json.loads((directory / _JSON).read_text())
        if described["format"] != _FORMAT:
            raise DataError(f"{directory / _JSON}: format {described['format']}, this program reads format {_FORMAT}")
        with np.load(directory / _ARRAYS, allow_pickle=False) as arrays:
            return Evaluation(
                name=described["name"],
                protocol=described["protocol"],
                split=described["part"],
                question=described["question"],
                ranks=arrays["ranks"].astype(np.int64),
                target_offsets=arrays["target_offsets"],
                num_known_events=arrays["num_known_events"].astype(np.int64),
                head_targets=arrays["head_targets"],
                list_metrics={
                    name.removeprefix(_LIST_PREFIX): arrays[name] for name in arrays if name.startswith(_LIST_PREFIX)
                },
                totals=described["totals"],
            )
    except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile) as error:
        raise DataError(f"{directory}: no evaluation can be read here: {error!r}") from error


def evaluation_directories(parent: Path) -> list[Path]:
    """Directories at or below `parent` that hold an evaluation, sorted."""
    return sorted(path.parent for path in parent.rglob(_JSON))
