"""What logs and messages show of URLs and secrets."""

from __future__ import annotations

import logging
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from tandem.ops import secrets
from tandem.ops.secrets import RedactingFormatter, redact_event, redacted, remember_secrets, without_password


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://127.0.0.1:6379/0", "redis://127.0.0.1:6379/0"),
        ("redis://:s3cret@h:1/0", "redis://h:1/0"),
        ("redis://ann:s3cret%40@h/0?ssl_cert_reqs=none", "redis://h/0?ssl_cert_reqs=***"),
        ("redis://h:1/0?password=s3cret", "redis://h:1/0?password=***"),
        ("redis://a:b:s3cret@s3cret@h:1/0", "redis://h:1/0"),
        ("redis://[::1]:6379/0", "redis://[::1]:6379/0"),
        ("tcp://s3cret-token@h", "tcp://h"),
        # Passwords whose characters should have been escaped.
        ("redis://:s3/cret@h:1/0", "redis://***"),
        ("redis://:12/34@h:1/0", "redis://***"),
        ("redis://:s3?cret@h/0", "redis://***"),
        ("redis://:s3#cret@h/0", "redis://***"),
        ("redis://ann/s3:cret@h/0", "redis://ann/***h/0"),
        ("kafka://a:1,b:2?sasl.password=s3@cret&acks=all", "kafka://a:1,b:2?sasl.password=***&acks=***"),
        ("kafka://a:1?s3cret", "kafka://a:1?***"),
        ("unix:///run/valkey.sock?db=1", "unix:///run/valkey.sock?db=***"),
        ("sqlite:////data/mlflow.db", "sqlite:////data/mlflow.db"),
        ("http://bob:s3cret@mlflow:5000/path", "http://mlflow:5000/path"),
        ("bob:s3cret@mlflow", "***"),
    ],
)
def test_a_url_is_shown_without_its_password(url: str, shown: str) -> None:
    assert without_password(url) == shown


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("the store redis://127.0.0.1:6379/0: away", "the store redis://127.0.0.1:6379/0: away"),
        ("see https://example.org/a#b.", "see https://example.org/a#b."),
        ("(at http://bob:s3cret@h:1/api/2.0).", "(at http://h:1/api/2.0)."),
        ("Settings(store_url='redis://:s3cret@h:1/0')", "Settings(store_url='redis://h:1/0')"),
        ("{'sasl.password': 's3cret', 'acks': 1}", "{'sasl.password': '***', 'acks': 1}"),
        ("client_secret=s3cret&x=1", "client_secret=***&x=1"),
        ("the password is wrong", "the password is wrong"),
    ],
)
def test_a_message_is_shown_without_passwords(text: str, shown: str) -> None:
    assert redacted(text) == shown


def test_the_secrets_of_the_environment_are_masked_wherever_they_stand(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(secrets, "_secrets", set())
    remember_secrets(
        {
            "TANDEM_STORE_URL": "redis://:qwert%40y1@h/0",
            "TANDEM_EVENTS_URL": "kafka://h:1?sasl.username=tandem&sasl.password=asdfgh2",
            "MLFLOW_TRACKING_PASSWORD": "zxcvbn3",
            "AWS_SECRET_ACCESS_KEY": "poiuyt4",
            "OTEL_EXPORTER_OTLP_HEADERS": "x-key=lkjhgf5,tenant=mnbvcx6",
            "TANDEM_API_KEYS_FILE": "/etc/tandem/keys",
            "TANDEM_REGISTRY_URI": "http://h:5000",
        }
    )
    said = "qwert%40y1 qwert@y1 asdfgh2 zxcvbn3 poiuyt4 lkjhgf5 mnbvcx6"
    assert redacted(said) == " ".join(["***"] * 7)
    assert redacted("tandem reads /etc/tandem/keys") == "tandem reads /etc/tandem/keys"


def test_every_value_of_a_log_line_is_redacted() -> None:
    url = "redis://:s3cret@h:1/0"
    event = {"event": "x", "n": 1, "on": True, "none": None, "url": url, "list": [url], "map": {"a": (url,)}}
    event |= {"error": ValueError(url), "path": Path("/data"), "object": {url}}
    shown = redact_event(None, "", event)
    assert "s3cret" not in repr(shown)
    assert (shown["n"], shown["on"], shown["none"], shown["path"]) == (1, True, None, "/data")
    assert (shown["url"], shown["error"]) == ("redis://h:1/0", "redis://h:1/0")


def test_lines_of_libraries_are_redacted_with_their_tracebacks() -> None:
    try:
        raise ValueError("http://bob:s3cret@h:1")
    except ValueError:
        record = logging.LogRecord("x", logging.ERROR, "", 1, "at %s", ("http://bob:s3cret@h:1",), sys.exc_info())
    line = RedactingFormatter("%(message)s").format(record)
    assert line.startswith("at http://h:1\nTraceback")
    assert "s3cret" not in line


@pytest.mark.process
def test_an_exception_that_ends_a_program_is_redacted_and_its_files_are_its_owners(tmp_path: Path) -> None:
    """Under the usual umask of 022."""
    program = (
        "from tandem.ops.process_start import start_process; start_process(); import os, threading\n"
        "open('file', 'w').close(); os.mkdir('folder')\n"
        "def fail(): raise ValueError('redis://:s3cret@h:1', os.environ['MLFLOW_TRACKING_TOKEN'])\n"
        "thread = threading.Thread(target=fail); thread.start(); thread.join(); fail()"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env={**os.environ, "MLFLOW_TRACKING_TOKEN": "qwertz123"},
        umask=0o022,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.count("ValueError: ('redis://h:1', '***')") == 2
    assert not {"s3cret", "qwertz123"} & set(done.stderr.replace("'", " ").split())
    modes = [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("file", "folder")]
    assert modes == [0o600, 0o700]
