"""Bundles with the item-item source: a round trip, and an error for every defect."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tandem.contract.bundle import Bundle, read_bundle
from tandem.contract.errors import BundleCorrupt, BundleIncompatible
from tandem.contract.manifest import FORMAT_VERSION
from tests.support.tiny_bundle import TinySpec, build_tiny_bundle
from tests.tandem.contract.test_bundle import change_manifest

NUM_ITEMS = 40


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return build_tiny_bundle(tmp_path / "bundle", TinySpec(num_items=NUM_ITEMS, item_item_weight=0.4))


def _rewrite(bundle: Bundle, name: str, change: Callable[[np.ndarray], np.ndarray]) -> None:
    """Changes an array of the bundle and its size in the manifest; the checksum stays wrong."""
    path = bundle.directory / name
    np.save(path, change(np.load(path)))
    change_manifest(bundle.directory, lambda raw: raw["files"][name].update(bytes=path.stat().st_size))


def test_a_bundle_without_content_may_have_the_source(bundle: Bundle) -> None:
    assert bundle.content is None
    assert bundle.item_item is not None
    assert bundle.item_item.rows.dtype == np.int32
    assert bundle.item_item.weights.dtype == np.float16
    spec = bundle.manifest.blend
    assert spec is not None
    assert spec.item_item is not None
    assert (spec.item_item.weight, spec.item_item.decay_events) == (0.4, 3.0)


@pytest.mark.parametrize(
    ("name", "change", "error"),
    [
        ("item_item_rows.npy", lambda rows: rows.astype(np.int64), BundleIncompatible),
        ("item_item_rows.npy", lambda rows: rows[:-1], BundleIncompatible),
        ("item_item_rows.npy", lambda rows: np.where(rows == rows[0, 0], NUM_ITEMS, rows), BundleIncompatible),
        ("item_item_rows.npy", lambda rows: np.where(rows == rows[0, 0], -2, rows), BundleIncompatible),
        ("item_item_rows.npy", lambda rows: np.where(rows == rows[0, 0], -1, rows), BundleIncompatible),
        ("item_item_weights.npy", lambda weights: weights.astype(np.float32), BundleIncompatible),
        ("item_item_weights.npy", lambda weights: weights[:, :-1], BundleIncompatible),
        (
            "item_item_weights.npy",
            lambda weights: np.where(weights == weights[0, 0], np.float16("nan"), weights),
            BundleCorrupt,
        ),
    ],
    ids=["dtype", "items", "row too high", "row too low", "weight of nothing", "weights' dtype", "shape", "nan"],
)
def test_arrays_that_do_not_fit_are_refused(
    bundle: Bundle, name: str, change: Callable[[np.ndarray], np.ndarray], error: type[Exception]
) -> None:
    _rewrite(bundle, name, change)
    with pytest.raises(error, match="item_item"):
        read_bundle(bundle.directory, verify_checksums=False)


@pytest.mark.parametrize(
    "change",
    [
        lambda source: source.update(weight=0.0),
        lambda source: source.update(weight=1.1),
        lambda source: source.update(decay_events=0.0),
        lambda source: source["calibration"].update(std=0.0),
        lambda source: source.pop("decay_events"),
    ],
    ids=["no weight", "too much", "no decay", "no deviation", "missing"],
)
def test_numbers_out_of_bounds_are_refused(bundle: Bundle, change: Callable[[dict[str, Any]], object]) -> None:
    change_manifest(bundle.directory, lambda raw: change(raw["blend"]["item_item"]))
    with pytest.raises(BundleIncompatible):
        read_bundle(bundle.directory, verify_checksums=False)


def test_files_that_the_blend_reads_must_be_listed(bundle: Bundle) -> None:
    change_manifest(bundle.directory, lambda raw: raw["files"].pop("item_item_weights.npy"))
    with pytest.raises(BundleIncompatible, match="item_item_weights"):
        read_bundle(bundle.directory, verify_checksums=False)


def test_the_sequential_source_makes_the_round_trip(tmp_path: Path) -> None:
    spec = TinySpec(num_items=NUM_ITEMS, item_item_weight=0.4, sequential_weight=0.3, whole_history=True, by_score=True)
    bundle = read_bundle(build_tiny_bundle(tmp_path / "bundle", spec).directory)
    blend = bundle.manifest.blend
    assert blend is not None
    assert blend.sequential is not None
    assert (blend.sequential.weight, blend.sequential.decay_events) == (0.3, 3.0)
    assert blend.sequential.whole_history
    assert blend.sequential.by_score
    assert bundle.sequential is not None
    assert bundle.item_item is not None
    assert bundle.sequential.rows.dtype == np.int32
    assert bundle.sequential.weights.dtype == np.float16
    assert bundle.sequential.rows.tolist() != bundle.item_item.rows.tolist()


@pytest.mark.parametrize("name", ["sequential_rows.npy", "sequential_weights.npy"])
def test_a_defect_of_the_sequential_source_is_refused(tmp_path: Path, name: str) -> None:
    bundle = build_tiny_bundle(tmp_path / "bundle", TinySpec(num_items=NUM_ITEMS, sequential_weight=0.3))
    _rewrite(bundle, name, lambda array: array[:-1])
    with pytest.raises(BundleIncompatible, match=name):
        read_bundle(bundle.directory, verify_checksums=False)


def test_a_bundle_of_the_format_before_has_no_sequential_source(bundle: Bundle) -> None:
    def as_version_6(raw: dict[str, Any]) -> None:
        assert raw["format_version"] == FORMAT_VERSION == 7
        raw["format_version"] = 6
        del raw["blend"]["sequential"]
        del raw["blend"]["item_item"]["whole_history"]
        del raw["blend"]["item_item"]["by_score"]

    change_manifest(bundle.directory, as_version_6)
    older = read_bundle(bundle.directory)
    assert older.manifest.blend == bundle.manifest.blend
    assert older.sequential is None
    assert older.item_item is not None
