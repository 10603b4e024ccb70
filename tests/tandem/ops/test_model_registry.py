"""The registry in a real MLflow with an SQLite file, and an unreachable registry."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from mlflow import MlflowClient

from deploy.local.ports import free_port
from tandem.contract.names import MODEL_VERSION_TAG
from tandem.ops.model_registry import ModelRegistry, RegisteredVersion, RegistryUnreadable, one_line
from tests.support.scripted_registry import scripted_registry

pytestmark = pytest.mark.process

NAME = "shop"


class Unreadable(Exception):
    """A program's own exception."""


@pytest.fixture
def uri(empty_database: Path, tmp_path: Path) -> str:
    (tmp_path / "mlflow.db").write_bytes(empty_database.read_bytes())
    return f"sqlite:///{tmp_path / 'mlflow.db'}"


@pytest.fixture
def registry(uri: str) -> ModelRegistry:
    return ModelRegistry(uri, model_name=NAME)


def register(uri: str, model_version: str | None, source: Path) -> str:
    client = MlflowClient(tracking_uri=uri, registry_uri=uri)
    if not client.search_registered_models(f"name='{NAME}'"):
        client.create_registered_model(NAME)
    tags = {} if model_version is None else {MODEL_VERSION_TAG: model_version}
    return str(client.create_model_version(NAME, source=str(source), tags=tags).version)


def test_missing_aliases_and_versions_are_none(uri: str, registry: ModelRegistry, tmp_path: Path) -> None:
    assert (registry.aliased("champion"), registry.numbered("1"), registry.aliases()) == (None, None, {})
    register(uri, "m1", tmp_path)
    assert (registry.aliased("champion"), registry.numbered("2"), registry.aliases()) == (None, None, {})


def test_versions_and_their_aliases(uri: str, registry: ModelRegistry, tmp_path: Path) -> None:
    numbers = [register(uri, "m1", tmp_path), register(uri, None, tmp_path)]
    assert numbers == ["1", "2"]
    first, second = RegisteredVersion("1", "m1", str(tmp_path)), RegisteredVersion("2", "", str(tmp_path))
    assert registry.versions() == [second, first]
    assert registry.versions()[1].tags == {MODEL_VERSION_TAG: "m1"}
    registry.set_alias("champion", "1")
    registry.set_alias("challenger", "2")
    assert (registry.aliased("champion"), registry.numbered("2")) == (first, second)
    registry.set_alias("champion", "2")
    assert registry.aliases() == {"champion": "2", "challenger": "2"}


def test_a_versions_run_and_tags_do_not_affect_equality() -> None:
    version = RegisteredVersion("1", "m1", "somewhere")
    again = replace(version, run_id="r", tags={"tandem.gate": "passed"})
    assert version == again
    assert len({version, again}) == 1


def test_a_download_is_a_copy(uri: str, registry: ModelRegistry, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "manifest.json").write_text("{}")
    register(uri, "m1", source)
    version = registry.numbered("1")
    assert version is not None
    directory = registry.download(version, tmp_path / "into")
    assert directory.is_relative_to(tmp_path / "into")
    (directory / "manifest.json").write_text("changed")
    assert (source / "manifest.json").read_text() == "{}"


@pytest.mark.parametrize("scheme", ["", "file://", "file:"])
def test_a_bundle_on_this_machine_is_copied_without_mlflow(scheme: str, tmp_path: Path) -> None:
    """A process that downloads for a server would otherwise spend seconds on the import."""
    source = tmp_path / "a folder" / "bundle"
    (source / "below").mkdir(parents=True)
    (source / "below" / "file").write_text("x")
    (tmp_path / "mlflow.db").touch()
    named = f"{scheme}{str(source).replace(' ', '%20')}"
    code = (
        "import sys; from pathlib import Path; from tandem.ops.model_registry import *;"
        f"registry = ModelRegistry('sqlite:///{tmp_path}/mlflow.db', model_name='m');"
        f"print(registry.download(RegisteredVersion('1', 'm1', {named!r}), Path({str(tmp_path / 'into')!r})));"
        "print('mlflow' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.splitlines() == [str(tmp_path / "into" / "bundle"), "False"]
    assert (tmp_path / "into" / "bundle" / "below" / "file").read_text() == "x"


def test_a_folder_is_not_copied_into_itself(tmp_path: Path) -> None:
    registry = ModelRegistry("http://127.0.0.1:1", model_name=NAME)
    for source in (tmp_path, tmp_path / "cache", Path("/")):
        with pytest.raises(RegistryUnreadable, match=r"^version 1 from /.*: the folder contains the one"):
            registry.download(RegisteredVersion("1", "m1", str(source)), tmp_path / "cache")
    assert not list((tmp_path / "cache").iterdir())


def test_a_bundle_that_is_gone_is_unreadable(registry: ModelRegistry, tmp_path: Path) -> None:
    version = RegisteredVersion("7", "m7", str(tmp_path / "nowhere"))
    with pytest.raises(RegistryUnreadable, match=f"^version 7 from {tmp_path}/nowhere: ") as caught:
        registry.download(version, tmp_path)
    assert caught.value.__cause__ is not None


def test_an_alias_of_a_version_that_is_not_there_is_refused(uri: str, registry: ModelRegistry, tmp_path: Path) -> None:
    register(uri, "m1", tmp_path)
    with pytest.raises(RegistryUnreadable, match="9"):
        registry.set_alias("champion", "9")


def test_a_database_that_is_missing_is_not_made(tmp_path: Path) -> None:
    registry = ModelRegistry(f"sqlite:///{tmp_path / 'none.db'}", model_name=NAME, raises=Unreadable)
    assert not registry.exists()
    for ask in (
        lambda: registry.aliased("champion"),
        registry.versions,
        lambda: registry.set_alias("champion", "1"),
        lambda: registry.download(RegisteredVersion("1", "m1", str(tmp_path)), tmp_path),
    ):
        with pytest.raises(Unreadable, match=r"none\.db: there is no such file$"):
            ask()
    assert not (tmp_path / "none.db").exists()


def test_every_failure_is_the_given_exception_and_names_the_registry(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    unreachable = f"http://127.0.0.1:{free_port()}"
    (tmp_path / "broken.db").write_bytes(b"no database" * 100)
    for uri in (unreachable, f"sqlite:///{tmp_path / 'broken.db'}"):
        registry = ModelRegistry(uri, model_name=NAME, raises=Unreadable)
        assert registry.exists()
        with pytest.raises(Unreadable, match=f"^{uri}: "):
            registry.aliased("champion")


def test_no_message_holds_the_registrys_password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with scripted_registry() as refusing:
        refusing.status = 401
        with pytest.raises(RegistryUnreadable) as refused:
            ModelRegistry(refusing.uri("bob:s3cret@"), model_name=NAME).aliased("champion")
    with pytest.raises(RegistryUnreadable) as away:
        ModelRegistry(f"http://bob:s3cret@127.0.0.1:{free_port()}", model_name=NAME).aliased("champion")
    with pytest.raises(RegistryUnreadable) as missing:
        ModelRegistry("http://bob:s3cret@127.0.0.1:1", model_name=NAME).download(
            RegisteredVersion("1", "m1", "http://ann:s3cret@127.0.0.1:1/bundle"), Path("nowhere")
        )
    for raised in (refused, away, missing):
        assert "127.0.0.1" in str(raised.value)
        assert "s3cret" not in str(raised.value)


@pytest.mark.parametrize("number", ["../../victim", "/etc", "1/..", "-1", "1.5", "", "¹", "9" * 19, "last_served.json"])
def test_a_version_whose_number_is_none_is_not_read(number: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It would be the name of a folder."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with scripted_registry() as hostile:
        hostile.number = number
        if not number:
            assert ModelRegistry(hostile.uri(), model_name=NAME).aliased("champion") == RegisteredVersion(
                "", "model-1", ""
            )
            return
        with pytest.raises(RegistryUnreadable, match="is not a number"):
            ModelRegistry(hostile.uri(), model_name=NAME).aliased("champion")


def test_a_download_holds_nothing_but_files_and_lies_where_it_should(tmp_path: Path) -> None:
    (tmp_path / "bundle" / "below").mkdir(parents=True)
    (tmp_path / "bundle" / "below" / "file").write_text("x")
    registry = ModelRegistry("http://127.0.0.1:1", model_name=NAME)
    copy = registry.download(RegisteredVersion("1", "m1", str(tmp_path / "bundle")), tmp_path / "into")
    assert (copy / "below" / "file").read_text() == "x"
    with pytest.raises(RegistryUnreadable):
        registry.download(RegisteredVersion("1", "m1", str(tmp_path / "bundle" / "below" / "file")), tmp_path / "into")


@pytest.mark.parametrize(
    ("message", "line"),
    [
        ("no such table: x\n[SQL: SELECT 1]", "no such table: x"),
        ("(raised as a result of Query-invoked autoflush)\ndisk is full", "disk is full"),
        (
            "These files failed:\n##### File a #####\nNo space left: 'a'\n##### File b #####\nNo space left: 'b'",
            "These files failed: No space left: 'a'",
        ),
        ("nothing follows:", "nothing follows:"),
        ("", "ValueError('')"),
    ],
)
def test_the_line_that_says_why(message: str, line: str) -> None:
    assert one_line(ValueError(message)) == line
