"""`dvc repro` in a separate git repository, with the project's dvc.yaml, remote and commands."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from mlflow import MlflowClient

from deploy.pipeline.errors import ParametersError
from deploy.pipeline.parameters import load_parameters
from tandem.contract.bundle import read_bundle
from tests.support.checkerboard import write_checkerboard

ROOT = Path(__file__).parents[3]
STAGES = ["ingest", "features", "train", "evaluate", "export"]
COMMAND_SECONDS = 600


class Repository:
    """A git repository with a tiny data set and the project's pipeline."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("TANDEM_")},
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'protos'}",
            "TANDEM_REGISTRY_URI": f"sqlite:///{folder / 'mlflow.db'}",
            "DVC_SITE_CACHE_DIR": str(folder.parent / "dvc-site"),
            "GIT_CONFIG_GLOBAL": os.devnull,
        }

    def run(self, *command: str) -> str:
        done = subprocess.run(
            command,
            cwd=self.folder,
            env=self._environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=COMMAND_SECONDS,
            check=False,
        )
        assert done.returncode == 0, done.stdout
        return done.stdout

    def repro(self) -> list[str]:
        """Runs `dvc repro`; returns the names of the stages that ran."""
        return re.findall(r"^Running stage '(\w+)':", self.run("dvc", "repro"), re.MULTILINE)

    def pipeline(self, name: str) -> Path:
        return self.folder / ".tandem" / "pipeline" / name


@pytest.fixture(scope="module")
def repository(tmp_path_factory) -> Repository:
    folder = tmp_path_factory.mktemp("dvc") / "project"
    repository = Repository(folder)
    write_checkerboard(folder / "board")
    for name in (".dvc/config", ".dvc/.gitignore", ".dvcignore", ".gitignore", "dvc.yaml", "params.yaml"):
        (folder / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, folder / name)
    parameters = yaml.safe_load((ROOT / "params.yaml").read_text())
    parameters["data"] |= {"dataset": "board/checkerboard.toml", "source": "board"}
    parameters["text"]["encoder"] = "none"
    parameters["train"] = {"fit": {"max_epochs": 2, "batch_size": 16, "seed": 0}, "towers": {"embedding_dim": 16}}
    parameters["evaluate"]["baselines"] = "popularity"
    (folder / "params.yaml").write_text(yaml.safe_dump(parameters))
    repository.run("git", "init", "--quiet")
    assert repository.repro() == STAGES
    return repository


@pytest.mark.process
def test_the_version_of_the_data_is_recorded(repository) -> None:
    outputs = yaml.safe_load((repository.folder / "dvc.lock").read_text())["stages"]["ingest"]["outs"]
    (version,) = [output["md5"] for output in outputs]
    manifest = read_bundle(repository.pipeline("bundle")).manifest
    assert manifest.training_data.data_version == version
    uri = f"sqlite:///{repository.folder / 'mlflow.db'}"
    client = MlflowClient(tracking_uri=uri, registry_uri=uri)
    registered = client.get_model_version(
        "tandem", json.loads(repository.pipeline("trained.json").read_text())["registry_version"]
    )
    assert client.get_run(registered.run_id).data.params["data_version"] == version
    assert registered.aliases == []  # the nightly run decides which version is served


@pytest.mark.process
def test_metrics_are_shown_by_dvc(repository) -> None:
    shown = json.loads(repository.run("dvc", "metrics", "show", "--json"))
    (metrics,) = [found["data"] for found in shown[""]["data"].values()]
    assert 0 <= metrics["as served"]["ndcg@10"] <= 1
    assert "Popularity" in metrics


@pytest.mark.process
def test_only_stages_that_a_change_affects_run_again(repository) -> None:
    assert repository.repro() == []

    path = repository.folder / "params.yaml"
    path.write_text(path.read_text().replace("max_epochs: 2", "max_epochs: 3"))
    assert repository.repro() == ["train", "evaluate", "export"]

    before = read_bundle(repository.pipeline("bundle")).manifest.training_data.data_version
    rows = repository.folder / "board" / "interactions.csv"
    rows.write_text(rows.read_text() + "user-0,item-1,1700009999\n")
    assert repository.repro() == STAGES
    assert read_bundle(repository.pipeline("bundle")).manifest.training_data.data_version != before


@pytest.mark.process
def test_the_local_remote_restores_what_was_pushed(repository) -> None:
    repository.run("dvc", "push")
    before = read_bundle(repository.pipeline("bundle")).manifest
    shutil.rmtree(repository.folder / ".tandem" / "pipeline")
    shutil.rmtree(repository.folder / ".dvc" / "cache")
    repository.run("dvc", "pull")
    assert read_bundle(repository.pipeline("bundle")).manifest == before


def test_the_projects_own_parameters_are_read() -> None:
    parameters = load_parameters(ROOT / "params.yaml")
    assert parameters.data_arguments == ("--dataset", "trainer/data/presets/ml-100k.toml")
    assert parameters.train_arguments == ("--set", "text.encoder=minilm", "--set", "fit.seed=0")


@pytest.mark.parametrize("text", ["data: {}\ntext: {}\n", "data: {\n", "data: {}\ntext: {}\ntrain: {}\nevaluate: {}\n"])
def test_wrong_parameters_are_named(tmp_path, text) -> None:
    (tmp_path / "params.yaml").write_text(text)
    with pytest.raises(ParametersError, match=r"params\.yaml: "):
        load_parameters(tmp_path / "params.yaml")
