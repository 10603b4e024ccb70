"""The Kubernetes manifests and Dockerfiles start existing programs with existing settings, and not as root."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

import feature_sync.core.settings
import inference_server.core.settings
import trainer.core.settings
from deploy.nightly.settings import load_settings
from deploy.nightly.steps import EXIT_REFUSED
from tandem.v1 import recommendation_pb2 as pb
from tests.deploy.nightly.variables import VARIABLES

ROOT = Path(__file__).parents[2]
MANIFESTS = sorted(path for path in (ROOT / "k8s").rglob("*.yaml"))
DOCKERFILES = {name: (ROOT / f"Dockerfile.{name}").read_text() for name in ("server", "trainer")}
SERVICE = pb.DESCRIPTOR.services_by_name["RecommendationService"].full_name
SETTINGS = {
    f"TANDEM_{name.upper()}": settings.model_fields[name]
    for settings in (
        feature_sync.core.settings.Settings,
        inference_server.core.settings.Settings,
        trainer.core.settings.Settings,
    )
    for name in settings.model_fields
}


@dataclass(frozen=True)
class Container:
    """A container and the pod that it belongs to."""

    owner: str
    pod: dict[str, Any]
    spec: dict[str, Any]

    @property
    def environment(self) -> dict[str, str]:
        return {entry["name"]: entry["value"] for entry in self.spec.get("env", [])}

    def __str__(self) -> str:
        return f"{self.owner}/{self.spec['name']}"


def documents() -> Iterator[tuple[Path, dict[str, Any]]]:
    for path in MANIFESTS:
        for document in yaml.safe_load_all(path.read_text()):
            yield path, document


def objects(kind: str) -> dict[str, dict[str, Any]]:
    return {document["metadata"]["name"]: document for _, document in documents() if document["kind"] == kind}


def pod_templates() -> Iterator[tuple[str, dict[str, Any]]]:
    for _, document in documents():
        if document["kind"] in {"Deployment", "StatefulSet"}:
            yield document["metadata"]["name"], document["spec"]["template"]
        if document["kind"] == "CronJob":
            yield document["metadata"]["name"], document["spec"]["jobTemplate"]["spec"]["template"]


def containers() -> list[Container]:
    return [
        Container(owner, template["spec"], spec)
        for owner, template in pod_templates()
        for spec in [*template["spec"].get("initContainers", []), *template["spec"]["containers"]]
    ]


def find_container(name: str) -> Container:
    (found,) = [container for container in containers() if container.spec["name"] == name]
    return found


def help_of(*command: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", *command, "--help"], capture_output=True, text=True, timeout=120, check=True
    )
    return done.stdout


every_container = pytest.mark.parametrize("container", containers(), ids=str)


class TestEveryContainer:
    @every_container
    def test_is_not_root_and_cannot_become_it(self, container: Container) -> None:
        pod_security = container.pod["securityContext"]
        assert pod_security["runAsNonRoot"] is True
        assert pod_security["runAsUser"] > 0
        assert pod_security["seccompProfile"] == {"type": "RuntimeDefault"}
        assert container.spec["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }

    @every_container
    def test_has_requests_and_limits(self, container: Container) -> None:
        assert set(container.spec["resources"]["requests"]) == {"cpu", "memory"}
        assert "memory" in container.spec["resources"]["limits"]

    @every_container
    def test_mounts_volumes_that_exist(self, container: Container) -> None:
        claimed = {"data"} if container.owner == "valkey" else set()
        volumes = {volume["name"] for volume in container.pod.get("volumes", [])} | claimed
        assert {mount["name"] for mount in container.spec["volumeMounts"]} <= volumes

    @every_container
    def test_gets_no_variables_of_services(self, container: Container) -> None:
        assert container.pod["enableServiceLinks"] is False
        assert container.pod["automountServiceAccountToken"] is False

    @every_container
    def test_gets_settings_that_exist(self, container: Container) -> None:
        for name in container.environment:
            if name.startswith("TANDEM_"):
                assert name in SETTINGS or name in VARIABLES

    @pytest.mark.parametrize(
        "container", [container for container in containers() if container.owner != "trainer"], ids=str
    )
    def test_of_a_service_is_probed_on_its_own_ports(self, container: Container) -> None:
        ports = {port["name"]: port["containerPort"] for port in container.spec["ports"]}
        for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
            [kind] = {"tcpSocket", "grpc", "exec", "httpGet"} & container.spec[probe].keys()
            if kind != "exec":
                assert container.spec[probe][kind]["port"] in {*ports, *ports.values()}


class TestServer:
    def test_readiness_follows_the_model_and_liveness_does_not(self) -> None:
        spec = find_container("inference-server").spec
        assert spec["readinessProbe"]["grpc"] == {"port": 50051, "service": SERVICE}
        assert spec["livenessProbe"]["tcpSocket"] == {"port": "grpc"}
        assert spec["startupProbe"]["tcpSocket"] == {"port": "grpc"}

    def test_ports_are_the_settings(self) -> None:
        server = find_container("inference-server")
        ports = {port["name"]: str(port["containerPort"]) for port in server.spec["ports"]}
        assert ports == {
            "grpc": server.environment["TANDEM_GRPC_PORT"],
            "http": server.environment["TANDEM_HTTP_PORT"],
            "metrics": server.environment["TANDEM_METRICS_PORT"],
        }
        assert server.environment["TANDEM_HOST"] == "0.0.0.0"

    def test_a_pod_has_time_to_stop_gracefully(self) -> None:
        server = find_container("inference-server")
        [_, pause_seconds] = server.spec["lifecycle"]["preStop"]["exec"]["command"]
        needed = float(pause_seconds) + float(server.environment["TANDEM_SHUTDOWN_GRACE_SECONDS"])
        assert server.pod["terminationGracePeriodSeconds"] > needed

    @pytest.mark.process
    def test_its_command_is_that_of_the_image(self) -> None:
        assert find_container("inference-server").spec["args"] == ["serve"]
        assert 'ENTRYPOINT ["python", "-m", "inference_server"]\nCMD ["serve"]' in DOCKERFILES["server"]
        assert "serve" in help_of("inference_server")


class TestFeatureSync:
    @pytest.mark.process
    def test_its_command_and_its_port(self) -> None:
        sync = find_container("feature-sync")
        assert sync.spec["args"] == ["feature_sync", "run"]
        assert "run" in help_of("feature_sync")
        assert 'ENTRYPOINT ["python", "-m"]' in DOCKERFILES["trainer"]
        assert [str(port["containerPort"]) for port in sync.spec["ports"]] == [
            sync.environment["TANDEM_SYNC_METRICS_PORT"]
        ]
        assert sync.environment["TANDEM_HOST"] == "0.0.0.0"

    def test_a_single_replica_archives_where_the_trainer_reads(self) -> None:
        assert objects("Deployment")["feature-sync"]["spec"]["replicas"] == 1
        assert objects("Deployment")["feature-sync"]["spec"]["strategy"] == {"type": "Recreate"}
        claims = [
            volume["persistentVolumeClaim"]
            for owner, template in pod_templates()
            if owner in {"feature-sync", "trainer"}
            for volume in template["spec"]["volumes"]
            if volume["name"] == "data"
        ]
        assert claims == [{"claimName": "trainer-data"}] * 2


class TestServices:
    @pytest.mark.parametrize("name", sorted(objects("Service")))
    def test_selects_a_pod_and_its_ports(self, name: str) -> None:
        service = objects("Service")[name]["spec"]
        [template] = [
            template
            for _, template in pod_templates()
            if service["selector"].items() <= template["metadata"]["labels"].items()
        ]
        named = {port["name"] for container in template["spec"]["containers"] for port in container["ports"]}
        assert {port["targetPort"] for port in service["ports"]} <= named

    def test_settings_name_services_and_their_ports(self) -> None:
        settings = objects("ConfigMap")["tandem-settings"]["data"]
        services = objects("Service")
        for variable in ("TANDEM_REGISTRY_URI", "TANDEM_STORE_URL"):
            host, port = re.fullmatch(r"\w+://([\w-]+):(\d+)(?:/0)?", settings[variable]).groups()  # type: ignore[union-attr]
            assert int(port) in {entry["port"] for entry in services[host]["spec"]["ports"]}

    def test_settings_exist_and_are_accepted(self, monkeypatch: pytest.MonkeyPatch) -> None:
        settings = objects("ConfigMap")["tandem-settings"]["data"]
        assert settings.keys() <= SETTINGS.keys()
        for name, value in settings.items():
            monkeypatch.setenv(name, value)
        assert str(feature_sync.core.settings.load_settings().data_dir) == settings["TANDEM_DATA_DIR"]
        assert inference_server.core.settings.Settings.load().store_url == settings["TANDEM_STORE_URL"]
        assert trainer.core.settings.load_settings().registry_uri == settings["TANDEM_REGISTRY_URI"]


class TestNightlyRun:
    @pytest.mark.process
    def test_starts_the_command_that_make_starts(self) -> None:
        night = find_container("nightly")
        assert night.spec["args"] == ["deploy.nightly", "run"]
        assert 'ENTRYPOINT ["python", "-m"]' in DOCKERFILES["trainer"]
        assert "python -m deploy.nightly run" in (ROOT / "Makefile").read_text()
        assert "--until" in help_of("deploy.nightly", "run")

    def test_its_image_contains_the_nightly_run(self) -> None:
        assert "deploy/nightly/*.py" in DOCKERFILES["trainer"]
        assert "!deploy/nightly" in (ROOT / ".dockerignore").read_text().splitlines()

    def test_asks_the_port_of_the_server(self) -> None:
        host, port = re.fullmatch(
            r"http://([\w-]+):(\d+)", find_container("nightly").environment["TANDEM_NIGHTLY_SERVER"]
        ).groups()  # type: ignore[union-attr]
        assert int(port) in {entry["port"] for entry in objects("Service")[host]["spec"]["ports"]}

    @pytest.mark.process
    def test_its_settings_and_arguments_are_accepted(self) -> None:
        night = find_container("nightly")
        assert load_settings(night.environment).data_arguments == ("--dataset", "ml-100k")
        assert "--dataset" in help_of("trainer", "prepare")

    def test_a_refused_candidate_is_not_tried_again(self) -> None:
        job = objects("CronJob")["trainer"]["spec"]["jobTemplate"]["spec"]
        [rule] = job["podFailurePolicy"]["rules"]
        assert rule["action"] == "FailJob"
        assert EXIT_REFUSED in rule["onExitCodes"]["values"]
        assert rule["onExitCodes"]["containerName"] == find_container("nightly").spec["name"]

    def test_two_runs_never_overlap(self) -> None:
        assert objects("CronJob")["trainer"]["spec"]["concurrencyPolicy"] == "Forbid"


class TestDockerfiles:
    @pytest.mark.parametrize("text", DOCKERFILES.values(), ids=DOCKERFILES)
    def test_runs_as_a_numeric_user_that_the_manifests_use(self, text: str) -> None:
        last_stage = text.rpartition("\nFROM ")[2]
        assert re.findall(r"^USER (.+)$", last_stage, re.MULTILINE) == ["10001:10001"]
        assert find_container("inference-server").pod["securityContext"]["runAsUser"] == 10001

    @pytest.mark.parametrize("text", DOCKERFILES.values(), ids=DOCKERFILES)
    def test_sets_settings_that_exist(self, text: str) -> None:
        assert set(re.findall(r"(TANDEM_\w+)=", text)) <= SETTINGS.keys()

    def test_the_health_check_asks_for_the_service(self) -> None:
        assert f"service='{SERVICE}'" in DOCKERFILES["server"]

    def test_the_ignore_file_lets_the_packages_through(self) -> None:
        allowed = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
        project = (ROOT / "pyproject.toml").read_text()
        packages = re.search(r"\npackages = \[(.+?)\]", project)
        assert packages is not None
        for folder in re.findall(r'"([\w/]+)"', packages.group(1)):
            assert folder.partition("/")[0] in allowed
        assert {"pyproject.toml", "constraints.txt", "README.md"} <= set(allowed)


@pytest.mark.process
@pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not installed")
@pytest.mark.parametrize("folder", ["base", "overlays/local"])
def test_kustomize_renders(folder: str) -> None:
    done = subprocess.run(
        ["kubectl", "kustomize", str(ROOT / "k8s" / folder)], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    rendered = list(yaml.safe_load_all(done.stdout))
    assert {"Deployment", "StatefulSet", "CronJob", "Service", "ConfigMap"} <= {item["kind"] for item in rendered}
    assert all("namespace" not in item["metadata"] for item in rendered)
