"""Distances and HTML pages by Evidently. The only module of the trainer that imports it; the import takes seconds."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd

os.environ.setdefault("DO_NOT_TRACK", "1")  # read when evidently is imported

from evidently import DataDefinition, Dataset, Report
from evidently.legacy.calculations.stattests import get_stattest
from evidently.legacy.core import ColumnType
from evidently.metrics.embeddings import EmbeddingsDrift, MMDDriftMethod
from evidently.presets import DataDriftPreset

from trainer.drift.column_report import ColumnReport
from trainer.drift.tables import Table

_NUMERIC_DISTANCE: Final = "wasserstein"
"""Unit: standard deviations of the reference."""
_CATEGORICAL_DISTANCE: Final = "jensenshannon"
"""Range: 0 to 1."""
EMBEDDING: Final = "user vectors"
"""Name of the only column in the distances of an embedding."""


def column_distances(reference: Table, recent: Table) -> dict[str, float]:
    """Distance between two tables, by column; NaN if a table has no values in the column."""
    numeric = {
        name: _distance(_NUMERIC_DISTANCE, ColumnType.Numerical, values, recent.numeric[name])
        for name, values in reference.numeric.items()
    }
    categorical = {
        name: _distance(_CATEGORICAL_DISTANCE, ColumnType.Categorical, values, recent.categorical[name])
        for name, values in reference.categorical.items()
    }
    return numeric | categorical


def embedding_distances(reference: Table, recent: Table) -> dict[str, float]:
    """Squared maximum mean discrepancy between two tables of vectors, with a Gaussian kernel as wide as the median
    distance."""
    score, _, _ = MMDDriftMethod()(pd.DataFrame(recent.numeric), pd.DataFrame(reference.numeric))
    return {EMBEDDING: float(score)}


def column_report(
    reference: Table, recent: Table, limits: Mapping[str, float], page: Path, *, drift_share: float
) -> ColumnReport:
    """Compares two tables column by column, and writes the page."""
    definition = DataDefinition(
        numerical_columns=list(reference.numeric), categorical_columns=list(reference.categorical)
    )
    preset = DataDriftPreset(
        columns=[*reference.numeric, *reference.categorical],
        num_method=_NUMERIC_DISTANCE,
        cat_method=_CATEGORICAL_DISTANCE,
        per_column_threshold=dict(limits),
        drift_share=drift_share,
    )
    _write_page(preset, reference, recent, definition, page)
    return ColumnReport.of(column_distances(reference, recent), limits)


def embedding_report(reference: Table, recent: Table, limits: Mapping[str, float], page: Path) -> ColumnReport:
    """Compares two tables of vectors, and writes the page."""
    definition = DataDefinition(embeddings={EMBEDDING: list(reference.numeric)})
    metric = EmbeddingsDrift(embeddings_name=EMBEDDING, drift_method=MMDDriftMethod(threshold=limits[EMBEDDING]))
    _write_page(metric, reference, recent, definition, page)
    return ColumnReport.of(embedding_distances(reference, recent), limits)


def _write_page(metric: Any, reference: Table, recent: Table, definition: DataDefinition, page: Path) -> None:
    Report([metric]).run(_dataset(recent, definition), _dataset(reference, definition)).save_html(str(page))


def _dataset(table: Table, definition: DataDefinition) -> Dataset:
    return Dataset.from_pandas(pd.DataFrame({**table.numeric, **table.categorical}), definition)


def _distance(method: str, kind: ColumnType, reference: np.ndarray, recent: np.ndarray) -> float:
    first, second = pd.Series(reference).dropna(), pd.Series(recent).dropna()
    if first.empty or second.empty:
        return float("nan")
    return float(get_stattest(first, second, kind, method)(first, second, kind, None).drift_score)
