"""The check of a bundle: a good bundle passes, each defect is refused with its kind and a reason that locates it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from inference_server.bundle_check.child_process import check_in_child
from inference_server.bundle_check.golden_queries import check_bundle
from inference_server.core.errors import BundleRefused, RefusalKind
from tandem.contract.bundle import Bundle
from tests.inference_server.conftest import build
from tests.inference_server.defects import DEFECTS, copy_of, flipped_byte_in_index, shuffled_index
from tests.support.checksums import correct_checksums
from tests.support.hostile_bundles import tower_that_fills_memory, tower_with_external_data


def test_a_good_bundle_passes(bundle: Bundle) -> None:
    report = check_bundle(bundle.directory)
    assert report.model_version == "tiny-1"
    assert report.num_items == 200
    assert report.num_golden_queries == 32
    assert report.golden_overlap == 1.0
    assert report.exact_overlap == 1.0
    assert 0.0 < report.recall_at_nprobe <= 1.0
    assert report.overlap_with_previous is None


def test_recommendations_are_compared_with_those_of_the_bundle_before(bundle: Bundle, tmp_path: Path) -> None:
    assert check_bundle(bundle.directory, previous=bundle.directory).overlap_with_previous == 1.0
    # Other vectors for the same items, of another dimension: the recommendations have hardly an item in common.
    other = build(tmp_path / "other", model_version="other", seed=5, dim=24)
    overlap = check_bundle(other.directory, previous=bundle.directory).overlap_with_previous
    assert overlap is not None
    assert 0.0 < overlap < 0.5
    with pytest.raises(BundleRefused, match="those of tiny-1, which serves now; TANDEM_MIN_SWAP_OVERLAP") as caught:
        check_bundle(other.directory, previous=bundle.directory, min_overlap=0.5)
    assert caught.value.reason_kind is RefusalKind.OVERLAP


def test_a_bundle_before_that_is_gone_is_not_compared(bundle: Bundle, tmp_path: Path) -> None:
    report = check_bundle(bundle.directory, previous=tmp_path / "gone", min_overlap=1.0)
    assert report.overlap_with_previous is None


def test_an_index_far_worse_than_its_manifest_says_is_refused(tmp_path: Path) -> None:
    # A list holds more items than are asked for; with fewer, serving would search more lists than `nprobe`.
    honest = build(tmp_path / "honest", num_items=2000, num_lists=8, nprobe=1)
    assert check_bundle(honest.directory).recall_at_nprobe == pytest.approx(honest.manifest.index.recall_at_100)
    path = honest.directory / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["index"]["recall_at_100"] = 0.99
    path.write_text(json.dumps(manifest))
    with pytest.raises(BundleRefused, match=r"as served, the index finds 0\.\d+ of the exact 100") as caught:
        check_bundle(honest.directory)
    assert caught.value.reason_kind is RefusalKind.GOLDEN_QUERIES


def test_vectors_that_are_not_those_of_the_golden_answers_are_refused(bundle: Bundle, tmp_path: Path) -> None:
    """Index and vectors agree with each other, and neither agrees with the tower."""
    broken = copy_of(bundle.directory, tmp_path / "broken")
    shuffled_index(broken)
    vectors = np.load(broken / "item_vectors.npy")
    np.save(broken / "item_vectors.npy", vectors[::-1].copy())
    correct_checksums(broken)
    with pytest.raises(BundleRefused, match=r"exact search finds 0\."):
        check_bundle(broken)


def test_items_with_equal_vectors_are_no_defect(tmp_path: Path) -> None:
    """Search and index may name any of these items, so a difference says nothing about the bundle."""
    vectors = np.repeat(np.random.default_rng(0).standard_normal((10, 16), dtype=np.float32), 20, axis=0)
    equal = build(tmp_path / "equal", item_vectors=np.random.default_rng(1).permutation(vectors))
    report = check_bundle(equal.directory)
    assert (report.exact_overlap, report.golden_overlap) == (1.0, 1.0)


def test_a_quantised_index_passes(tmp_path: Path) -> None:
    quantised = build(tmp_path / "quantised", num_items=2000, num_lists=8, quantiser="SQ8")
    assert check_bundle(quantised.directory).golden_overlap > 0.9


@pytest.mark.parametrize("defect", DEFECTS, ids=lambda defect: defect.__name__)
def test_each_defect_is_refused(bundle: Bundle, tmp_path: Path, defect: Callable[[Path], None]) -> None:
    kind, words = DEFECTS[defect]
    broken = copy_of(bundle.directory, tmp_path / "broken")
    defect(broken)
    with pytest.raises(BundleRefused) as caught:
        check_bundle(broken)
    assert caught.value.reason_kind == kind
    assert words in caught.value.reason


def test_a_folder_that_is_no_bundle_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BundleRefused, match=r"manifest\.json"):
        check_bundle(tmp_path)


@pytest.mark.process
async def test_the_child_says_the_same(bundle: Bundle, tmp_path: Path) -> None:
    report = await check_in_child(bundle.directory, seconds=300.0, previous=bundle.directory)
    assert (report.model_version, report.overlap_with_previous) == ("tiny-1", 1.0)
    report = await check_in_child(bundle.directory, seconds=300.0, previous=bundle.directory / "gone")
    assert (report.model_version, report.overlap_with_previous) == ("tiny-1", None)
    broken = copy_of(bundle.directory, tmp_path / "broken")
    flipped_byte_in_index(broken)
    with pytest.raises(BundleRefused, match=r"index\.faiss") as caught:
        await check_in_child(broken, seconds=300.0)
    assert caught.value.reason_kind is RefusalKind.CORRUPT


@pytest.mark.process
async def test_a_bundle_that_needs_endless_memory_is_refused(bundle: Bundle, tmp_path: Path) -> None:
    hostile = copy_of(bundle.directory, tmp_path / "hostile")
    tower_that_fills_memory(hostile, "user_tower.onnx")
    with pytest.raises(BundleRefused, match=r"user_tower\.onnx fails"):
        await check_in_child(hostile, seconds=300.0)


@pytest.mark.process
async def test_a_check_that_does_not_end_is_ended(bundle: Bundle) -> None:
    with pytest.raises(BundleRefused, match="did not end within") as caught:
        await check_in_child(bundle.directory, seconds=0.05)
    assert caught.value.reason_kind is RefusalKind.CHECK_FAILED


def test_tensors_in_another_file_are_refused(bundle: Bundle, tmp_path: Path) -> None:
    hostile = copy_of(bundle.directory, tmp_path / "hostile")
    tower_with_external_data(hostile)
    with pytest.raises(BundleRefused, match="keeps tensors in another file"):
        check_bundle(hostile)


@pytest.mark.process
async def test_a_child_that_ends_without_a_result_refuses(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TANDEM_GRPC_PORT", "nonsense")
    with pytest.raises(BundleRefused, match="exit status 2") as caught:
        await check_in_child(bundle.directory, seconds=300.0)
    assert caught.value.reason_kind is RefusalKind.CHECK_FAILED


def run_check(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "inference_server", "check", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)


@pytest.mark.process
def test_the_command_reports_for_people_and_for_programs(bundle: Bundle, tmp_path: Path) -> None:
    good = run_check(str(bundle.directory))
    assert (good.returncode, good.stdout.startswith("ok: tiny-1, 200 items")) == (0, True)
    good = run_check(str(bundle.directory), "--json")
    assert good.returncode == 0
    assert json.loads(good.stdout)["golden_overlap"] == 1.0

    broken = copy_of(bundle.directory, tmp_path / "broken")
    flipped_byte_in_index(broken)
    bad = run_check(str(broken))
    assert bad.returncode == 1
    assert bad.stdout.startswith("refused: corrupt: index.faiss")
    bad = run_check(str(broken), "--json")
    assert bad.returncode == 1
    assert json.loads(bad.stdout)["reason_kind"] == "corrupt"
    assert run_check().returncode == 2
