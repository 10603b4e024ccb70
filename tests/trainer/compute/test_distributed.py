"""Two processes of torchrun on the CPU give the results of a single process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from tandem.contract.bundle import read_bundle
from tests.support.checkerboard import write_checkerboard
from trainer.compute import distributed
from trainer.core.settings import Settings
from trainer.registry.registry import Registry

ROOT = Path(__file__).parents[3]
TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]


def _python(arguments: list[str], **environment: str) -> str:
    """Runs Python with the arguments; returns its standard output."""
    paths = os.pathsep.join([str(ROOT), str(ROOT / "protos")])
    completed = subprocess.run(
        [sys.executable, *arguments],
        env={**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1", **environment},
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert completed.returncode == 0, completed.stderr
    return completed.stdout


@pytest.mark.process
def test_two_processes_fit_the_same_weights_and_embed_the_same_texts(tmp_path) -> None:
    module = ["-m", "tests.trainer.compute.several_processes"]
    folders = {"one": tmp_path / "one", "two": tmp_path / "two"}
    for folder in folders.values():
        folder.mkdir()
    _python([*module, str(folders["one"])])
    _python([*TORCHRUN, *module, str(folders["two"])])
    embeddings = {name: np.load(folder / "embeddings.npy") for name, folder in folders.items()}
    assert np.array_equal(embeddings["one"], embeddings["two"])
    assert len(list(folders["two"].rglob("*.npz"))) == 1 + 2 + 1  # the fit, a share of each process, the single text
    with np.load(folders["one"] / "fit.npz") as one, np.load(folders["two"] / "fit.npz") as two:
        assert one.files == two.files
        assert two["metrics"][0] == pytest.approx(one["metrics"][0], rel=1e-4)
        for name in set(one.files) - {"everywhere", "metrics"}:
            assert two[name] == pytest.approx(one[name], abs=1e-3), name
        assert two["everywhere"].tolist() == [one["everywhere"][0].tolist()] * 2
    saved = torch.load(folders["two"] / "checkpoint.pt", weights_only=True)
    assert len(saved["random_states"]) == 2


@pytest.mark.process
def test_torchrun_trains_and_registers_one_model(tmp_path) -> None:
    table = write_checkerboard(tmp_path / "checkerboard")
    registry_uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    overrides = {"towers.embedding_dim": "16", "fit.batch_size": "16", "fit.max_epochs": "20", "text.encoder": "none"}
    assignments = [word for key, value in overrides.items() for word in ("--set", f"{key}={value}")]
    command = ["-m", "trainer", "train", "--dataset", str(table), "--if-needed", *assignments]
    environment = {"TANDEM_DATA_DIR": str(tmp_path), "TANDEM_REGISTRY_URI": registry_uri}
    answer = json.loads(_python([*TORCHRUN, *command], **environment))  # one object: process 1 prints nothing
    assert answer["trained"]
    assert answer["promoted"]
    registry = Registry(Settings(data_dir=tmp_path, registry_uri=registry_uri))
    champion = registry.champion()
    assert champion is not None
    assert str(champion.number) == str(answer["registry_version"]) == "1"
    bundle = read_bundle(registry.download(champion, tmp_path / "bundle"))
    assert bundle.manifest.metrics["test/recall@10"] >= 0.95
    assert not list((tmp_path / "checkpoints").iterdir())
    again = json.loads(_python([*TORCHRUN, *command], **environment))
    assert not again["trained"]


def test_without_torchrun_there_is_one_process() -> None:
    with distributed.process_group(torch.device("cpu")):
        assert (distributed.rank(), distributed.num_processes()) == (0, 1)
        assert distributed.broadcast("value") == "value"
        assert distributed.gather(3) == [3]
        assert distributed.total(torch.ones(2)).tolist() == [1.0, 1.0]
