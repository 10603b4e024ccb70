"""`drift` on the command line, with a champion in a real registry and the address of a Pushgateway."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from mlflow import MlflowClient

from tests.support.registries import new_registry
from tests.trainer.drift.shop import Customers, tasteful_bundle, write_shop
from trainer.commands.cli import main
from trainer.core.settings import Settings
from trainer.registry.registry import Registry

pytestmark = pytest.mark.process


class Pushed(BaseHTTPRequestHandler):
    """Accepts the requests of a Pushgateway, and keeps their paths and bodies."""

    bodies: list[tuple[str, str]] = []  # noqa: RUF012

    def do_PUT(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        self.bodies.append((self.path, body))
        self.send_response(200)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def pushgateway() -> Iterator[str]:
    server = HTTPServer(("127.0.0.1", 0), Pushed)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A data folder with a registered champion."""
    folder = tmp_path_factory.mktemp("drift")
    settings = Settings(data_dir=folder, registry_uri=new_registry(folder))
    registry = Registry(settings)
    bundle = tasteful_bundle(folder / "bundle")
    with registry.start_run("tasteful") as run:
        source = run.log_bundle(bundle.directory)
    version = registry.register(run, source, model_version="tasteful", training_fingerprint="")
    registry.set_alias(settings.model_alias, version.number)
    return folder


@pytest.fixture(autouse=True)
def _environment(folder, monkeypatch) -> None:
    monkeypatch.setenv("TANDEM_DATA_DIR", str(folder))
    monkeypatch.setenv("TANDEM_REGISTRY_URI", f"sqlite:///{folder / 'mlflow.db'}")
    monkeypatch.setenv("TANDEM_LOG_LEVEL", "error")


def test_drift_is_printed_logged_and_measured(folder, tmp_path, capsys, monkeypatch, pushgateway) -> None:
    monkeypatch.setenv("TANDEM_PUSHGATEWAY_URL", pushgateway)
    other = Customers(prefix="late", tastes=(0.7, 0.1, 0.1, 0.1))
    assert main(["drift", "--dataset", str(write_shop(tmp_path, other))]) == 0
    answer = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert answer["drifted"] is True
    assert answer["reports"]["recommendations"]["drifted"] is True
    assert answer["reference"] == "2026-03-02T00:00:00..2026-03-30T00:00:00"
    assert answer["recent"] == "2026-03-30T00:00:00..2026-04-06T00:00:00"

    uri = f"sqlite:///{folder / 'mlflow.db'}"
    client = MlflowClient(tracking_uri=uri, registry_uri=uri)
    run = client.get_run(answer["run_id"])
    champion = client.get_model_version_by_alias("tandem", "champion")
    assert run.data.tags["mlflow.parentRunId"] == champion.run_id
    assert run.data.metrics["drift"] == 1.0
    assert run.data.metrics["drift/recommendations/share"] >= 0.3
    assert {Path(artifact.path).name for artifact in client.list_artifacts(answer["run_id"], "drift")} == {
        "inputs.html",
        "scores.html",
        "recommendations.html",
        "embeddings.html",
        "drift.json",
    }

    gauges = Path(answer["gauges"]).read_text()
    assert 'tandem_drift{report="recommendations"} 1.0' in gauges
    assert 'tandem_drift_distance{column="category",report="recommendations"}' in gauges
    [(path, pushed)] = Pushed.bodies
    assert path == "/metrics/job/tandem_drift"
    assert 'tandem_drift{report="recommendations"} 1.0' in pushed


def test_no_drift_is_printed_too(tmp_path, capsys) -> None:
    assert main(["drift", "--dataset", str(write_shop(tmp_path, Customers(prefix="late")))]) == 0
    answer = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert answer["drifted"] is False
    assert answer["enough_data"] is True
    assert set(answer["reports"]) == {"inputs", "scores", "recommendations", "embeddings"}


def test_windows_may_be_named(tmp_path, capsys) -> None:
    data = ["--dataset", str(write_shop(tmp_path, Customers(prefix="late")))]
    assert main(["drift", *data, "--reference", "2026-03-02..2026-03-09", "--recent", "2026-03-09..2026-03-16"]) == 0
    answer = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert answer["reference"] == "2026-03-02T00:00:00..2026-03-09T00:00:00"
    assert answer["enough_data"] is True


def test_too_few_users_are_no_evidence(tmp_path, capsys) -> None:
    data = ["--dataset", str(write_shop(tmp_path, Customers(prefix="late", num_users=10)))]
    assert main(["drift", *data]) == 0
    answer = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert answer["drifted"] is False
    assert answer["enough_data"] is False


def test_events_without_times_are_no_reference(tmp_path, capsys) -> None:
    data = write_shop(tmp_path, Customers(prefix="late"))
    events = (tmp_path / "events.csv").read_text().splitlines()
    timeless = [f"{line.split(',')[0]},{line.split(',')[1]},0,click" for line in events[1:]]
    (tmp_path / "events.csv").write_text("\n".join([events[0], *timeless, events[-1].replace("item-", "item-1")]))
    assert main(["drift", "--dataset", str(data)]) == 0
    answer = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert answer["drifted"] is False
    assert answer["enough_data"] is False


def test_without_a_champion_there_is_nothing_to_compare(tmp_path, capsys, monkeypatch) -> None:
    monkeypatch.setenv("TANDEM_REGISTRY_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    assert main(["drift", "--dataset", str(write_shop(tmp_path, Customers(prefix="late")))]) == 0
    answer = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert answer["drifted"] is False
    assert answer["registry_version"] is None


@pytest.mark.parametrize("span", ["yesterday", "2026-03-09..2026-03-02", "2026-03-09"])
def test_a_wrong_window_is_named(tmp_path, capsys, span) -> None:
    data = ["--dataset", str(write_shop(tmp_path, Customers(prefix="late", num_users=10)))]
    assert main(["drift", *data, "--recent", span]) == 2
    assert f"{span}: " in capsys.readouterr().err
