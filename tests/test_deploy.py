"""What is in `deploy/`: held against the schemas that Kubernetes publishes, and against itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from buildkit.settings import Settings
from tests.kubernetes import find_schema_error

DEPLOY = Path(__file__).parent.parent / "deploy"
MANIFESTS = sorted((DEPLOY / "kubernetes").glob("*.yaml"))
# `appArmorProfile` is a field since 1.30.
KUBERNETES_VERSIONS = ("1.30", "1.33")


def list_documents() -> list[dict[str, Any]]:
    return [document for path in MANIFESTS for document in yaml.safe_load_all(path.read_text("utf-8"))]


def find(kind: str, name: str) -> dict[str, Any]:
    (found,) = (it for it in list_documents() if (it["kind"], it["metadata"]["name"]) == (kind, name))
    return found


@pytest.mark.parametrize("version", KUBERNETES_VERSIONS)
@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.name)
def test_manifests_keep_the_published_schema_without_an_unknown_field(path: Path, version: str) -> None:
    for document in yaml.safe_load_all(path.read_text("utf-8")):
        assert not find_schema_error(document, version)


def test_there_is_everything_that_a_cluster_needs() -> None:
    kinds = {document["kind"] for document in list_documents()}
    wanted = {"Deployment", "StatefulSet", "Service", "Secret", "NetworkPolicy", "PodDisruptionBudget"}
    assert wanted <= kinds


@pytest.mark.parametrize(("kind", "name"), [("Deployment", "runtime-build"), ("StatefulSet", "buildkit")])
def test_services_budgets_and_policies_select_the_pods(kind: str, name: str) -> None:
    labels = find(kind, name)["spec"]["template"]["metadata"]["labels"].items()
    assert find(kind, name)["spec"]["selector"]["matchLabels"].items() <= labels
    assert find("Service", name)["spec"]["selector"].items() <= labels
    assert find("PodDisruptionBudget", name)["spec"]["selector"]["matchLabels"].items() <= labels
    assert find("NetworkPolicy", name)["spec"]["podSelector"]["matchLabels"].items() <= labels


def test_the_server_knows_every_daemon_and_its_secrets_exist() -> None:
    container = find("Deployment", "runtime-build")["spec"]["template"]["spec"]["containers"][0]
    values = {entry["name"]: entry for entry in container["env"]}
    replicas = find("StatefulSet", "buildkit")["spec"]["replicas"]
    hosts = [f"tcp://buildkit-{number}.buildkit:1234" for number in range(replicas)]
    assert values["BUILDKIT_HOSTS"]["value"].split() == hosts
    wanted = values["RUNTIME_API_KEY"]["valueFrom"]["secretKeyRef"]
    assert wanted["key"] in find("Secret", wanted["name"])["stringData"]


def test_compose_mounts_and_depends_on_what_it_defines() -> None:
    compose = yaml.safe_load((DEPLOY / "compose.yaml").read_text("utf-8"))
    services, volumes = compose["services"], set(compose["volumes"])
    assert set(services) == {"server", "buildkit", "registry"}
    for service in services.values():
        assert set(service.get("depends_on", ())) <= set(services)
        assert {volume.partition(":")[0] for volume in service["volumes"]} <= volumes
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", ()))


def test_settings_of_the_image_are_settings_of_ours() -> None:
    lines = (DEPLOY / "Dockerfile").read_text("utf-8").splitlines()
    words = [word for line in lines if line.startswith("ENV ") for word in line.split()[1:]]
    names = {word.partition("=")[0] for word in words} - {"PYTHONUNBUFFERED"}
    assert names
    assert {name.lower() for name in names} <= set(Settings.__dataclass_fields__)
