"""Settings: a bad value ends the program with one line that names the variable, exit status 2 and no traceback."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from inference_server.core.errors import SettingsError
from inference_server.core.settings import Settings, TlsFiles
from tandem.ops.environment_settings import settings_help


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("TANDEM_"):
            monkeypatch.delenv(name)


BAD = [
    ("TANDEM_GRPC_PORT", "70000"),
    ("TANDEM_GRPC_PORT", "many"),
    ("TANDEM_METRICS_PORT", "-1"),
    ("TANDEM_DEADLINE_MS", "0"),
    ("TANDEM_REGISTRY_POLL_SECONDS", "0"),
    ("TANDEM_MAX_CONCURRENT_REQUESTS", "0"),
    ("TANDEM_SHUTDOWN_GRACE_SECONDS", "-1"),
    ("TANDEM_STORE_URL", "http://127.0.0.1"),
    ("TANDEM_REGISTRY_URI", "file:/somewhere"),
    ("TANDEM_REGISTRY_URI", "sqlite:///relative.db"),
    ("TANDEM_BUNDLE_PATH", "/no/such/folder"),
    ("TANDEM_LOG_LEVEL", "loud"),
    ("TANDEM_REFLECTION", "perhaps"),
    ("TANDEM_CHANNELZ", "perhaps"),
    ("TANDEM_MAX_REQUEST_BYTES", "100"),
    ("TANDEM_MAX_STREAMS_PER_CONNECTION", "0"),
    ("TANDEM_TLS_KEY", "/key/without/certificate"),
    ("TANDEM_METRICS_TLS_KEY", "/key/without/certificate"),
    ("TANDEM_TLS_CLIENT_CA", "/ca/without/certificate"),
    ("TANDEM_OTLP_ENDPOINT", "collector:4317"),
    ("TANDEM_TRACE_SAMPLE_RATIO", "1.5"),
    ("TANDEM_IMPRESSION_LOG_MAX_BYTES", "1"),
]


@pytest.mark.parametrize(("variable", "value"), BAD)
def test_bad_settings_name_the_variable(monkeypatch: pytest.MonkeyPatch, variable: str, value: str) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(SettingsError, match=f"^{variable}: ") as caught:
        Settings.load()
    assert "\n" not in str(caught.value)


def test_a_certificate_needs_a_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TANDEM_TLS_CERTIFICATE", "/tls.crt")
    with pytest.raises(SettingsError, match=r"^TANDEM_TLS_KEY: is needed with TANDEM_TLS_CERTIFICATE"):
        Settings.load()
    monkeypatch.setenv("TANDEM_METRICS_TLS_CERTIFICATE", "/metrics.crt")
    with pytest.raises(SettingsError, match=r"^TANDEM_METRICS_TLS_KEY: is needed with TANDEM_METRICS_TLS_CERTIFICATE"):
        Settings.load()
    monkeypatch.setenv("TANDEM_METRICS_TLS_KEY", "/metrics.key")
    monkeypatch.setenv("TANDEM_TLS_KEY", "/tls.key")
    assert Settings.load().tls == TlsFiles(certificate=Path("/tls.crt"), key=Path("/tls.key"))


def test_everything_of_security_is_off_by_default() -> None:
    settings = Settings.load()
    assert settings.tls is None
    assert settings.api_keys_file is None
    assert settings.otlp_endpoint == ""
    assert settings.impression_log is None
    assert (settings.max_request_bytes, settings.max_streams_per_connection) == (1 << 20, 16)


def test_defaults_are_the_agreed_ones() -> None:
    settings = Settings.load()
    assert settings.grpc_port == 50051
    assert settings.metrics_port == 9100
    assert settings.host == "127.0.0.1"
    assert settings.registry_uri == f"sqlite:///{Path.cwd()}/.tandem/mlflow.db"
    assert settings.data_dir == Path.cwd() / ".tandem"
    assert settings.model_name == "tandem"
    assert settings.model_alias == "champion"
    assert settings.bundle_path is None


def test_an_empty_variable_is_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TANDEM_BUNDLE_PATH", "")
    monkeypatch.setenv("TANDEM_GRPC_PORT", "")
    assert Settings.load() == Settings()
    assert Settings.load().bundle_path is None


def test_every_setting_says_what_it_does() -> None:
    for name, field in Settings.model_fields.items():
        assert field.description, name
        assert f"TANDEM_{name.upper()}" in settings_help(Settings)


def run_program(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "inference_server", *arguments],
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


@pytest.mark.process
def test_the_program_ends_with_status_2_and_one_line() -> None:
    result = run_program("serve", TANDEM_DEADLINE_MS="soon")
    assert result.returncode == 2
    assert result.stderr.startswith("inference_server: TANDEM_DEADLINE_MS: ")
    assert len(result.stderr.splitlines()) == 1


@pytest.mark.process
@pytest.mark.parametrize("arguments", [["--help"], ["serve", "--help"]])
def test_help_lists_the_settings(arguments: list[str]) -> None:
    result = run_program(*arguments)
    assert result.returncode == 0
    assert "TANDEM_SHUTDOWN_GRACE_SECONDS" in result.stdout


@pytest.mark.process
def test_no_command_is_a_usage_error() -> None:
    assert run_program().returncode == 2
