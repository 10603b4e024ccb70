"""The check of a bundle: what is good passes, each defect is refused with its kind and a reason that says where."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from inference_server.check import check_bundle
from inference_server.check_process import check_in_child
from inference_server.errors import BundleRefused, RefusalKind
from tandem.contract.bundle import Bundle
from tests.inference_server.defects import DEFECTS, copy_of, flipped_byte_in_index


def test_a_good_bundle_passes(bundle: Bundle) -> None:
    report = check_bundle(bundle.directory)
    assert report.model_version == "tiny-1"
    assert report.num_items == 200
    assert report.num_golden_queries == 32
    assert report.golden_overlap == 1.0
    assert 0.0 < report.recall_at_nprobe <= 1.0


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


async def test_the_child_says_the_same(bundle: Bundle, tmp_path: Path) -> None:
    assert await check_in_child(bundle.directory) == "tiny-1"
    broken = copy_of(bundle.directory, tmp_path / "broken")
    flipped_byte_in_index(broken)
    with pytest.raises(BundleRefused, match=r"index\.faiss") as caught:
        await check_in_child(broken)
    assert caught.value.reason_kind is RefusalKind.CORRUPT


async def test_a_child_that_ends_without_a_result_refuses(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TANDEM_GRPC_PORT", "nonsense")
    with pytest.raises(BundleRefused, match="exit status 2") as caught:
        await check_in_child(bundle.directory)
    assert caught.value.reason_kind is RefusalKind.CHECK_FAILED


def run_check(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "inference_server", "check", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)


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
