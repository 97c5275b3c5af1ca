"""The manifest: read by a YAML parser, held against the schemas that Kubernetes publishes."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from buildkit.command import StartCommand
from buildkit.contract import ImageContract
from buildkit.errors import SettingError
from buildkit.models import TARGETS, Target
from buildkit.settings import Settings
from buildkit.tasks.manifest import ManifestRequest, render_manifest
from buildkit.workspace import Workspace
from tests.kubernetes import find_schema_error

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.commands import Command

    Render = Callable[..., str]

IMAGE = "registry.example.com/acme/agent-server:0506352-python"
DIGEST = "sha256:" + "0123456789abcdef" * 4
KUBERNETES_VERSIONS = ("1.25", "1.28", "1.30", "1.33")


@pytest.fixture
def render(output_dir: Path) -> Render:
    """Return a function that renders the manifest of an image."""

    def render_with(image: str = IMAGE, target: str = "binary", settings: Settings | None = None, **values: Any) -> str:
        contract = ImageContract.from_settings(settings or Settings(), Target(target), None)
        return render_manifest(Workspace(output_dir), ManifestRequest(contract, image, **values))

    return render_with


def read(text: str) -> tuple[dict[str, Any], dict[str, Any]]:
    deployment, service = yaml.safe_load_all(text)
    return deployment, service


def read_container(text: str) -> dict[str, Any]:
    container: dict[str, Any] = read(text)[0]["spec"]["template"]["spec"]["containers"][0]
    return container


@pytest.mark.parametrize("version", KUBERNETES_VERSIONS)
@pytest.mark.parametrize("target", TARGETS)
def test_every_target_keeps_the_published_schema_without_an_unknown_field(
    render: Render, target: str, version: str
) -> None:
    kinds = []
    for document in read(render(f"{IMAGE}@{DIGEST}", target=target)):
        assert not find_schema_error(document, version)
        kinds.append(document["kind"])
    assert kinds == ["Deployment", "Service"]


def test_the_schema_check_notices_a_misspelt_field(render: Render) -> None:
    deployment, _ = read(render(IMAGE, target="binary").replace("runAsNonRoot", "runAsNonroot"))
    assert "runAsNonroot" in find_schema_error(deployment, KUBERNETES_VERSIONS[0])


def test_the_service_finds_the_pods_and_their_port(render: Render) -> None:
    deployment, service = read(render(IMAGE, target="binary", name="mine", port=60000))
    template = deployment["spec"]["template"]
    selector = service["spec"]["selector"].items()
    assert selector <= template["metadata"]["labels"].items()
    assert deployment["spec"]["selector"]["matchLabels"].items() <= template["metadata"]["labels"].items()
    container = template["spec"]["containers"][0]
    assert [port["name"] for port in container["ports"]] == [service["spec"]["ports"][0]["targetPort"]]
    assert container["ports"][0]["containerPort"] == service["spec"]["ports"][0]["port"] == 60000
    assert container["args"] == ["--host", "0.0.0.0", "--port", "60000"]
    assert "command" not in container


def test_the_image_is_named_by_digest_where_one_is_known(render: Render) -> None:
    container = read_container(render(f"{IMAGE}@{DIGEST}"))
    assert (container["image"], container["imagePullPolicy"]) == (f"{IMAGE}@{DIGEST}", "IfNotPresent")
    container = read_container(render(IMAGE, target="binary"))
    assert (container["image"], container["imagePullPolicy"]) == (IMAGE, "Always")


def test_the_pod_has_no_privilege_that_it_does_not_need(render: Render) -> None:
    deployment, _ = read(render(IMAGE, target="source-minimal"))
    pod = deployment["spec"]["template"]["spec"]
    assert pod["automountServiceAccountToken"] is False
    assert pod["securityContext"] == {
        "runAsNonRoot": True,
        "runAsUser": 10001,
        "runAsGroup": 10001,
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    security = pod["containers"][0]["securityContext"]
    assert security["allowPrivilegeEscalation"] is False
    assert security["capabilities"] == {"drop": ["ALL"]}
    assert "privileged" not in security
    assert not pod.keys() & {"hostNetwork", "hostPID", "hostIPC"}


def test_probes_ask_alive_and_ready(render: Render) -> None:
    container = read_container(render(IMAGE, target="source"))
    paths = {name: container[f"{name}Probe"]["httpGet"]["path"] for name in ("startup", "liveness", "readiness")}
    assert paths == {"startup": "/alive", "liveness": "/alive", "readiness": "/ready"}


@pytest.mark.parametrize("version", KUBERNETES_VERSIONS)
def test_a_server_of_another_kind_is_asked_by_the_health_check_of_its_image(render: Render, version: str) -> None:
    command = StartCommand("uvicorn", ("app:app", "--port", "9000"))
    text = render(settings=Settings(server_command=command, server_port=9000, health_path="/ping"))
    for document in read(text):
        assert not find_schema_error(document, version)
    container = read_container(text)
    for name in ("startup", "liveness", "readiness"):
        assert container[f"{name}Probe"]["exec"] == {"command": ["agent-server-health", "9000", "/ping"]}
    assert container["ports"][0]["containerPort"] == 9000
    assert "args" not in container


def test_a_port_that_a_command_would_not_be_given_is_refused(render: Render) -> None:
    settings = Settings(server_command=StartCommand("uvicorn", ("app:app",)))
    with pytest.raises(SettingError, match="SERVER_COMMAND decides the port"):
        render(settings=settings, port=60000)
    assert "containerPort: 8000" in render(settings=settings, port=8000)


def test_the_session_key_comes_from_a_secret_and_nothing_else_is_in_the_environment(render: Render) -> None:
    container = read_container(render(IMAGE, target="binary", secret="my.secret/KEY_1"))
    source = {"secretKeyRef": {"name": "my.secret", "key": "KEY_1"}}
    assert container["env"] == [
        {"name": "SESSION_API_KEY", "valueFrom": source},
        {"name": "OH_SESSION_API_KEYS_0", "valueFrom": source},
    ]


@pytest.mark.parametrize(
    ("values", "setting"),
    [
        ({"name": "Upper"}, "--name"),
        ({"name": "1st"}, "--name"),
        ({"name": "end-"}, "--name"),
        ({"name": "a" * 64}, "--name"),
        ({"name": "two\nlines"}, "--name"),
        ({"name": "trailing\n"}, "--name"),
        ({"name": "été"}, "--name"),
        ({"name": ""}, "--name"),
        ({"port": 80}, "--port"),
        ({"port": 65536}, "--port"),
        ({"replicas": -1}, "--replicas"),
        ({"secret": "no_underscore/key"}, "--secret"),
        ({"secret": "a." * 130 + "a/key"}, "--secret"),
        ({"secret": "s/a b"}, "--secret"),
        ({"secret": 's/"; rm'}, "--secret"),
        ({"image": "Not/An Image"}, "image reference"),
        ({"image": "a:b\nkind: Pod"}, "image reference"),
        ({"image": f"{IMAGE}@sha256:short"}, "image reference"),
        ({"secret": "no-key"}, "--secret"),
    ],
)
def test_a_value_that_kubernetes_would_refuse_is_refused_by_name(
    render: Render, values: dict[str, Any], setting: str
) -> None:
    with pytest.raises(SettingError, match=re.escape(setting)) as refusal:
        render(**values)
    assert refusal.value.fix


@pytest.mark.parametrize("name", ["true", "null", "n", "a" * 63])
def test_names_that_yaml_would_read_as_something_else_stay_names(render: Render, name: str) -> None:
    assert read(render(IMAGE, target="binary", name=name))[1]["metadata"]["name"] == name


def test_a_template_of_the_users_own_takes_the_place_of_ours(render: Render, tmp_path: Path) -> None:
    (tmp_path / "manifest.yaml.j2").write_text("{{ image }} on {{ port }}\n")
    assert render(IMAGE, target="binary", template_dir=tmp_path) == f"{IMAGE} on 8000\n"


@pytest.mark.parametrize(("text", "said"), [("\n{{ nmae }}\n", "nmae"), ("\n{% if %}\n", "line 2")])
def test_a_broken_template_is_a_setting_to_mend(render: Render, tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "manifest.yaml.j2").write_text(text)
    with pytest.raises(SettingError, match=said):
        render(IMAGE, target="binary", template_dir=tmp_path)


@pytest.mark.parametrize(
    ("flag", "value"), [("--port", "80"), ("--port", ""), ("--replicas", "-1"), ("--replicas", "x")]
)
def test_a_flag_out_of_its_range_is_answered_with_the_range(command: Command, flag: str, value: str) -> None:
    meant = {"--port": "from 1024 to 65535", "--replicas": "from 0 to 1000"}[flag]
    command.run("manifest", f"{flag}={value}", "--image", IMAGE).fail(2, f"set {flag} to a whole number {meant}")
