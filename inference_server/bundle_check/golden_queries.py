"""The check of a bundle before it serves: the real engines answer questions whose answers are known.

Runs in a process of its own, `python -m inference_server check DIR` (see `child_process`): a damaged index or model can
crash the native libraries, and then only the check dies. Checksums show that the files are those that were written; the
golden queries show that these files give the right answers with this machine's engines. They are asked three times: of
exact search, which uses only the tower and the vectors; of the index searching all its lists; and of the index as it is
served.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import structlog

from inference_server.bundle_check.report import CheckReport
from inference_server.core.errors import BundleRefused, RefusalKind
from inference_server.model.engine.search import Allowed
from inference_server.model.serving_model import ServingModel, open_model
from tandem.contract.errors import BundleError
from tandem.contract.recall import recall_of
from tandem.contract.vocabulary import MISSING_ROW, NO_ROWS, Rows

_log = structlog.get_logger()

MIN_GOLDEN_OVERLAP: Final = 0.99
"""Least share of the golden answers that exact search must find, and an index of whole vectors that searches all its
lists; mean over the queries. The rest are near-ties that this machine's arithmetic orders differently."""
RECALL_TOLERANCE: Final = 0.1
"""How far the recall may lie below the manifest's, which was measured on other users: three standard errors of the mean
of 32 golden queries, whose recalls have a standard deviation of 0.2. Quantised indexes order near-ties differently from
exact search, so the same limit applies to them when they search all lists."""
RECALL_AT: Final = 100

_COMPARED_USERS: Final = 100
_COMPARED_ITEMS: Final = 10
_ROWS_AT_ONCE: Final = 65_536

_Vectors = npt.NDArray[np.float32]


def check_bundle(directory: Path, *, previous: Path | None = None, min_overlap: float = 0.0) -> CheckReport:
    """Verifies checksums, opens a bundle in the real engines, and asks the golden queries.

    `previous` is the folder of the bundle that serves now. The recommendations of both to the held-out users are
    compared, and a share of common items below `min_overlap` refuses the bundle. Raises BundleRefused.
    """
    try:
        model = open_model(directory)
    except BundleError as error:
        raise BundleRefused(RefusalKind.of(error), str(error)) from error
    vectors, expected = _golden_vectors(model), model.bundle.golden_queries.expected_rows
    item_vectors = model.bundle.item_vectors
    exact = _exact_top(item_vectors, vectors, min(RECALL_AT, len(model.bundle.items)))
    k = expected.shape[1]
    exact_overlap = recall_of(expected, exact[:, :k], vectors, item_vectors)
    if exact_overlap < MIN_GOLDEN_OVERLAP:
        raise BundleRefused(
            RefusalKind.GOLDEN_QUERIES,
            f"exact search finds {exact_overlap:.4f} of the golden answers, at least {MIN_GOLDEN_OVERLAP} needed",
        )
    promised = model.bundle.manifest.index
    acceptable_recall = max(promised.recall_at_100 - RECALL_TOLERANCE, 0.0)
    golden_overlap = recall_of(_found(model, vectors, k, exhaustive=True), exact[:, :k], vectors, item_vectors)
    needed_overlap = MIN_GOLDEN_OVERLAP if promised.kind.endswith("Flat") else acceptable_recall
    if golden_overlap < needed_overlap:
        raise BundleRefused(
            RefusalKind.GOLDEN_QUERIES,
            f"the index finds {golden_overlap:.4f} of the golden answers, at least {needed_overlap:.4g} needed",
        )
    recall = recall_of(_found(model, vectors, exact.shape[1], exhaustive=False), exact, vectors, item_vectors)
    if recall < acceptable_recall:
        raise BundleRefused(
            RefusalKind.GOLDEN_QUERIES,
            f"as served, the index finds {recall:.4f} of the exact {exact.shape[1]} nearest items, the manifest says "
            f"{promised.recall_at_100:.4f}, at least {acceptable_recall:.4f} needed",
        )
    return CheckReport(
        model_version=model.version,
        num_items=len(model.bundle.items),
        num_golden_queries=len(vectors),
        exact_overlap=exact_overlap,
        golden_overlap=golden_overlap,
        recall_at_nprobe=recall,
        overlap_with_previous=_compared(model, previous, min_overlap) if previous is not None else None,
    )


def describe(report: CheckReport) -> str:
    """One line for people."""
    line = (
        f"ok: {report.model_version}, {report.num_items} items; {report.num_golden_queries} golden queries: "
        f"{report.exact_overlap:.4f} found by exact search, {report.golden_overlap:.4f} searching all lists; "
        f"recall@{RECALL_AT} as served {report.recall_at_nprobe:.4f}"
    )
    if report.overlap_with_previous is not None:
        line += f"; {report.overlap_with_previous:.4f} of the recommendations are the previous bundle's"
    return line


def _golden_vectors(model: ServingModel) -> _Vectors:
    """The user tower's output for the golden inputs: (queries, dim) float32. Raises BundleRefused."""
    golden = model.bundle.golden_queries
    if golden.expected_rows.ndim != 2 or golden.expected_rows.size == 0:
        raise BundleRefused(RefusalKind.GOLDEN_QUERIES, "the bundle holds no golden queries")
    try:
        vectors = model.user_tower.encode(golden.inputs)
    except (
        Exception
    ) as error:  # ONNX Runtime raises many types for inputs that a tower rejects; each refuses the bundle
        raise BundleRefused(
            RefusalKind.GOLDEN_QUERIES, f"the user tower fails on the golden inputs: {error!r}"
        ) from error
    expected_shape = (len(golden.expected_rows), model.bundle.manifest.embedding_dim)
    if vectors.shape != expected_shape:
        raise BundleRefused(
            RefusalKind.GOLDEN_QUERIES,
            f"the user tower makes vectors of shape {vectors.shape}, expected {expected_shape}",
        )
    if not np.isfinite(vectors).all():
        raise BundleRefused(RefusalKind.GOLDEN_QUERIES, "the user tower makes vectors that are NaN or infinite")
    return vectors


def _exact_top(item_vectors: _Vectors, queries: _Vectors, k: int) -> Rows:
    """The k items with the highest inner product: (queries, k) int64, best first, without the index.

    Works in chunks of rows, so that neither all scores nor all vectors are in memory at once.
    """
    rows = np.empty((len(queries), 0), dtype=np.int64)
    scores = np.empty((len(queries), 0), dtype=np.float32)
    for start in range(0, len(item_vectors), _ROWS_AT_ONCE):
        chunk = queries @ item_vectors[start : start + _ROWS_AT_ONCE].T
        scores = np.concatenate([scores, chunk], axis=1)
        rows = np.concatenate([rows, np.broadcast_to(np.arange(start, start + chunk.shape[1]), chunk.shape)], axis=1)
        best = np.argsort(-scores, axis=1, kind="stable")[:, :k]
        rows, scores = np.take_along_axis(rows, best, axis=1), np.take_along_axis(scores, best, axis=1)
    return rows


def _found(model: ServingModel, vectors: _Vectors, k: int, *, exhaustive: bool) -> list[Rows]:
    found = model.index.nearest(vectors, k, [Allowed(None, NO_ROWS)] * len(vectors), exhaustive=exhaustive)
    return [rows[rows != MISSING_ROW] for rows in found.rows]


def _compared(model: ServingModel, previous: Path, min_overlap: float) -> float | None:
    """Share of the items recommended to held-out users that `previous` recommends too. Raises BundleRefused."""
    try:
        before = open_model(previous, verify_checksums=False)
    except BundleError as error:
        _log.warning("previous_bundle_not_compared", directory=str(previous), reason=str(error))
        return None
    users = model.bundle.held_out_users[:_COMPARED_USERS]
    if not users:
        return None
    user_ids, states = [user.user_id for user in users], [user.state for user in users]
    new, old = (
        [
            compared.bundle.item_vocabulary.keys[rows]
            for rows in _found(compared, compared.encode_users(user_ids, states), _COMPARED_ITEMS, exhaustive=False)
        ]
        for compared in (model, before)
    )
    shares = [len(np.intersect1d(ours, theirs)) / max(len(ours), 1) for ours, theirs in zip(new, old, strict=True)]
    overlap = float(np.mean(shares))
    if overlap < min_overlap:
        raise BundleRefused(
            RefusalKind.OVERLAP,
            f"{overlap:.4f} of the items it recommends to {len(users)} held-out users are those of "
            f"{before.version}, which serves now; TANDEM_MIN_SWAP_OVERLAP asks for {min_overlap}",
        )
    return overlap
