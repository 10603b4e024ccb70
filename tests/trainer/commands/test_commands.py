"""A model trained through the command line, and every command that takes a model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from mlflow import MlflowClient

from tandem.contract.bundle import read_bundle
from tandem.contract.bundle_files import MODEL_CARD
from tests.support.checkerboard import write_checkerboard
from trainer.commands.cli import main
from trainer.config.train_config import load_train_config
from trainer.evaluation.comparison import TABLE_METRICS

pytestmark = pytest.mark.slow

SMALL = (
    "towers.embedding_dim=16",
    "towers.num_layers=1",
    "fit.max_epochs=12",
    "fit.batch_size=16",
    "text.encoder=none",
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("commands")


@pytest.fixture(autouse=True)
def _environment(folder, monkeypatch) -> None:
    _set_environment(folder, monkeypatch)


@pytest.fixture(scope="module")
def trained(folder) -> Path:
    """The data set of a registered model, with its report beside it."""
    data = write_checkerboard(folder / "source")
    with pytest.MonkeyPatch.context() as monkeypatch:
        _set_environment(folder, monkeypatch)
        assert main(["train", "--dataset", str(data), *_small(), "--report", str(folder / "out/report.html")]) == 0
    return data


def _set_environment(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TANDEM_DATA_DIR", str(folder / "data"))
    monkeypatch.setenv("TANDEM_REGISTRY_URI", f"sqlite:///{folder / 'mlflow.db'}")
    monkeypatch.setenv("TANDEM_LOG_LEVEL", "error")


def _small() -> list[str]:
    return [argument for assignment in SMALL for argument in ("--set", assignment)]


def test_the_report_is_written_and_logged(trained, folder) -> None:
    page = (folder / "out/report.html").read_text()
    assert "as served" in page
    assert "Popularity" in page
    assert "A black square" in page
    uri = f"sqlite:///{folder / 'mlflow.db'}"
    client = MlflowClient(tracking_uri=uri, registry_uri=uri)
    run_id = client.get_model_version_by_alias("tandem", "champion").run_id
    logged = Path(client.download_artifacts(run_id, "report.html", str(folder)))
    assert logged.read_text() == page
    figures = page.split('class="figure-data" data-figure="map">')[1].split("</script>")[0]
    assert {trace["name"] for trace in json.loads(figures)["data"]} == {"black", "white"}


def test_export_writes_the_verified_bundle_with_its_card(trained, folder, tmp_path, capsys) -> None:
    assert main(["export", "--output", str(tmp_path / "bundle")]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["registry_version"] == "1"
    bundle = read_bundle(tmp_path / "bundle")
    assert bundle.manifest.model_version == answer["model_version"]
    card = (bundle.directory / MODEL_CARD.name).read_text()
    assert f"python -m trainer train --dataset {trained}" in card
    assert bundle.manifest.training_data.fingerprint in card
    assert "max_epochs = 12" in card
    assert "720 rows read, 720 kept" in card
    assert main(["export", "--output", str(tmp_path / "bundle")]) == 2
    assert "never overwritten" in capsys.readouterr().err


def test_an_export_that_is_damaged_leaves_nothing_behind(trained, folder, tmp_path, capsys) -> None:
    (source,) = (folder / "mlflow-artifacts").rglob("bundle/items.arrow")
    intact = source.read_bytes()
    try:
        source.write_bytes(intact[:-1] + bytes([intact[-1] ^ 1]))
        assert main(["export", "--output", str(tmp_path / "bundle")]) == 1
    finally:
        source.write_bytes(intact)
    assert "items.arrow" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_evaluate_a_registered_model_then_compare(trained, tmp_path, capsys) -> None:
    output = tmp_path / "quality"
    arguments = ["--dataset", str(trained), *_small(), "--model", "champion", "--output", str(output)]
    assert main(["evaluate", *arguments]) == 0
    printed = capsys.readouterr().out
    assert printed == (tmp_path / "quality.md").read_text()
    written = json.loads((tmp_path / "quality.json").read_text())
    assert {"as served", "Popularity", "EASE"} <= written["models"].keys()
    assert set(TABLE_METRICS) <= written["models"]["as served"]["metrics"].keys()

    # The metrics of the exported bundle equal the metrics that the run measured before the export.
    assert main(["compare", "1", f"{output}.evaluations", "--against", "Popularity"]) == 0
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    run_row, bundle_row = (
        next(row for row in rows if row.startswith(f"| {name} |")) for name in ("version 1", "as served")
    )
    assert run_row.removeprefix("| version 1") == bundle_row.removeprefix("| as served")
    assert sum(row.startswith("| EASE |") for row in rows) == 4  # once in each of the four tables


def test_the_sampled_protocol_is_labelled(trained, capsys) -> None:
    arguments = ["--dataset", str(trained), *_small(), "--model", "1", "--baselines", "popularity", "--sampled"]
    assert main(["evaluate", *arguments]) == 0
    assert "| model | 1+99: precision@10 |" in capsys.readouterr().out


def test_prepared_data_are_trained_on_and_the_alias_stays(trained, folder, tmp_path, capsys) -> None:
    assert main(["prepare", "--dataset", str(trained)]) == 0
    prepared = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (prepared["num_users"], prepared["num_items"], prepared["catalogue_sequence"]) == (60, 24, 0)
    command = ["train", "--prepared", prepared["prepared"], *_small(), "--no-promote", "--data-version", "v7"]
    assert main([*command, "--set", "fit.seed=1", "--baselines", "popularity"]) == 0
    answer = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert answer["prepared"] == prepared["prepared"]
    assert answer["trained"]
    assert not answer["promoted"]
    assert 100 < answer["peak_memory_mib"] < 100_000
    uri = f"sqlite:///{folder / 'mlflow.db'}"
    client = MlflowClient(tracking_uri=uri, registry_uri=uri)
    version = client.get_model_version("tandem", answer["registry_version"])
    assert client.get_model_version_by_alias("tandem", "champion").run_id != version.run_id
    run = client.get_run(version.run_id)
    assert run.data.tags["tandem.data_version"] == run.data.params["data_version"] == "v7"
    assert main(["export", "--model", answer["registry_version"], "--output", str(tmp_path / "bundle")]) == 0
    assert read_bundle(tmp_path / "bundle").manifest.training_data.data_version == "v7"


def test_prepared_data_and_arguments_of_a_data_set_exclude_each_other(folder, capsys) -> None:
    for described in (["--dataset", "ml-1m"], ["--until", "2026-01-01"], ["--set", "data.min_rating=3"]):
        assert main(["train", "--prepared", str(folder), *described]) == 2
        assert "--prepared names data that are prepared already" in capsys.readouterr().err


def test_tune_writes_a_configuration_that_train_takes(trained, folder, capsys) -> None:
    arguments = ["--dataset", str(trained), *_small(), "--set", "fit.max_epochs=2", "--trials", "2"]
    assert main(["tune", *arguments]) == 0
    found = Path(capsys.readouterr().out.splitlines()[-1])
    assert found == folder / "data/tuning/checkerboard.toml"
    assert load_train_config(found, {}).fit.max_epochs == 2
    # The study has its two trials already: a second call runs none and prints the same.
    assert main(["tune", *arguments]) == 0
    assert "study checkerboard: 2 trials finished" in capsys.readouterr().out


@pytest.mark.parametrize(
    "mistake",
    [
        (["compare", "1", "--against", "nobody"], "'nobody' was not evaluated", 2),
        (["compare", "9"], "no version '9'", 1),
        (["compare", "no/such/folder"], "no/such/folder: no such folder", 2),
        (["compare", "."], "no evaluation in this folder", 1),
        (["evaluate", "--model", "9"], "no version '9'", 1),
    ],
)
def test_missing_runs_and_versions_are_named(trained, tmp_path, monkeypatch, capsys, mistake) -> None:
    arguments, message, status = mistake
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == status
    assert message in capsys.readouterr().err
