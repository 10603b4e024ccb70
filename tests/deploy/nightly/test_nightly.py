"""Decisions of the nightly run. `tests/end_to_end/test_retrain.py` runs it with the real programs."""

from __future__ import annotations

import dataclasses
import json
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from deploy.nightly import steps
from deploy.nightly.errors import NotServed, SettingsError
from deploy.nightly.serving import wait_until_served
from deploy.nightly.settings import Settings, load_settings
from tests.deploy.nightly.variables import VARIABLES

WEDNESDAY, SUNDAY = datetime(2026, 11, 25, tzinfo=UTC), datetime(2026, 11, 22, tzinfo=UTC)


@pytest.mark.parametrize(
    ("drift", "night", "full"),
    [
        ({"drifted": False, "registry_version": "1"}, WEDNESDAY, False),
        ({"drifted": True, "registry_version": "1"}, WEDNESDAY, True),
        ({"drifted": False, "registry_version": "1"}, SUNDAY, True),
        ({"drifted": False, "registry_version": None}, WEDNESDAY, True),
        (None, WEDNESDAY, False),
        (None, SUNDAY, True),
    ],
)
def test_training_is_full_on_its_day_on_drift_and_while_there_is_no_champion(drift, night, full) -> None:
    assert steps.train_in_full(drift, night, Settings(data_dir=Path()).full_weekday) is full


def test_settings_are_read_from_the_environment(tmp_path) -> None:
    settings = load_settings(
        {
            "TANDEM_DATA_DIR": str(tmp_path),
            "TANDEM_NIGHTLY_DATA": "--dataset 'my shop.toml'",
            "TANDEM_NIGHTLY_CONFIG": "--set fit.max_minutes=30",
            "TANDEM_NIGHTLY_FULL_ON": "Monday",
            "TANDEM_NIGHTLY_SERVER": "http://server:8080/",
            "TANDEM_NIGHTLY_FEATURES": "on",
        }
    )
    assert settings == Settings(
        data_dir=tmp_path,
        data_arguments=("--dataset", "my shop.toml"),
        config_arguments=("--set", "fit.max_minutes=30"),
        full_weekday=0,
        server_url="http://server:8080",
        feature_store=True,
    )
    assert steps.train(settings, "/prepared", full=True)[-2:] == ("--set", "fit.max_minutes=30")


def test_empty_variables_are_the_defaults(tmp_path) -> None:
    assert len(VARIABLES) == len(dataclasses.fields(Settings)) - 1, "every field but data_dir has a variable"
    given = {"TANDEM_DATA_DIR": str(tmp_path), **dict.fromkeys(VARIABLES, "")}
    assert load_settings(given) == Settings(data_dir=tmp_path)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("TANDEM_NIGHTLY_FULL_ON", "someday"),
        ("TANDEM_NIGHTLY_SERVE_TIMEOUT_SECONDS", "long"),
        ("TANDEM_NIGHTLY_FEATURES", "perhaps"),
    ],
)
def test_a_wrong_variable_is_named(name, value) -> None:
    with pytest.raises(SettingsError, match=r"TANDEM_NIGHTLY_.*" + value):
        load_settings({name: value})


def test_folders_that_feature_sync_has_not_made_yet_are_left_out(tmp_path) -> None:
    settings = Settings(data_dir=tmp_path)
    assert "--events" not in steps.ingest(settings, until="2026-11-25")
    (tmp_path / "events").mkdir()
    (tmp_path / "item-changes").mkdir()
    arguments = steps.ingest(settings, until="2026-11-25")
    assert arguments[arguments.index("--events") + 1] == str(tmp_path / "events")
    assert arguments[arguments.index("--item-changes") + 1] == str(tmp_path / "item-changes")


def test_what_was_shown_is_reported_where_it_is_kept(tmp_path) -> None:
    settings = Settings(data_dir=tmp_path)
    assert not steps.keeps_impressions(settings)
    (tmp_path / "impressions").mkdir()
    assert steps.keeps_impressions(settings)
    assert steps.attribute() == ("feature_sync", "attribute")


class Serving(BaseHTTPRequestHandler):
    """A server that reports the next model version with every answer, and the last version from then on."""

    versions: list[str] = []  # noqa: RUF012
    keys: list[str | None] = []  # noqa: RUF012

    def do_GET(self) -> None:
        self.keys.append(self.headers["x-api-key"])
        version = self.versions.pop(0) if len(self.versions) > 1 else self.versions[0]
        body = json.dumps({"model_version": version, "last_refusal": "golden queries differ"}).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def server_url() -> Iterator[str]:
    server = HTTPServer(("127.0.0.1", 0), Serving)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.mark.process
def test_waits_until_the_server_serves_the_model(server_url, tmp_path) -> None:
    Serving.versions = ["", "one", "two"]
    settings = Settings(data_dir=tmp_path, server_url=server_url, api_key="secret")
    assert wait_until_served("two", settings)["model_version"] == "two"
    assert set(Serving.keys) == {"secret"}


@pytest.mark.process
def test_a_server_that_does_not_serve_it_says_why(server_url, tmp_path) -> None:
    Serving.versions = ["one"]
    settings = Settings(data_dir=tmp_path, server_url=server_url, serve_timeout_seconds=0)
    with pytest.raises(NotServed, match="it serves one; refused: golden queries differ"):
        wait_until_served("two", settings)
