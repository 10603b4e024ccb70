"""A split on disk, in the folder of the prepared data, so that any program can train and test on the same parts.

`splits/KIND[-SEED].parquet` holds user_id, item_id and part ("train", "validation" or "test") of every interaction, in
the order of `interactions.parquet`; the `.json` of the same name holds the counts and the fingerprints.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Final

import numpy as np

from tandem.contract import names
from trainer.data.prepare import PreparedData
from trainer.dataset.dataset import Dataset
from trainer.dataset.parquet import write_columns
from trainer.dataset.splits import PART_NAMES, SplitKind, Splits

_FOLDER: Final = "splits"
_PART: Final = "part"


def _split_path(prepared: PreparedData, kind: SplitKind, *, seed: int) -> Path:
    """Path of the Parquet file of a split. The description has the suffix .json instead."""
    return prepared.directory / _FOLDER / f"{kind}{f'-{seed}' if kind == 'random' else ''}.parquet"


def write_split(splits: Splits, dataset: Dataset, prepared: PreparedData) -> Path:
    """Writes a split of `dataset`, which holds the data of `prepared`, and returns the path of the Parquet file."""
    path = _split_path(prepared, splits.kind, seed=splits.seed)
    path.parent.mkdir(exist_ok=True)
    user_ids, item_ids = np.array(dataset.user_ids, dtype=object), np.array(dataset.catalogue.item_ids, dtype=object)
    columns = {
        names.USER_ID: user_ids[dataset.user_rows],
        names.ITEM_ID: item_ids[dataset.item_rows],
        _PART: np.array(PART_NAMES, dtype=object)[splits.codes],
    }
    description = {
        "kind": splits.kind,
        "seed": splits.seed,
        "counts": dict(zip(PART_NAMES, np.bincount(splits.codes, minlength=len(PART_NAMES)).tolist(), strict=True)),
        "fingerprint": splits.fingerprint,
        "data_fingerprint": prepared.fingerprint,
    }
    # Written under another name first, so a crash leaves no incomplete file.
    scratch = path.with_suffix(f".{os.getpid()}.tmp")
    write_columns(columns, scratch)
    scratch.replace(path)
    scratch.write_text(json.dumps(description, indent=2) + "\n")
    scratch.replace(path.with_suffix(".json"))
    return path
