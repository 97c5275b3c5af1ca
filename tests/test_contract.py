"""The contract of the image, held against what images say of themselves."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from buildkit.command import StartCommand
from buildkit.contract import AGENT_SERVER, ImageContract
from buildkit.engines.checks import Probe, check_config, judge_probe, list_probes
from buildkit.engines.container import ImageConfig
from buildkit.engines.leaks import find_leaks
from buildkit.models import Target
from buildkit.settings import Settings

SHA = "0123456789abcdef0123456789abcdef01234567"
LABELS = {
    f"org.opencontainers.image.{name}": value
    for name, value in {
        "revision": SHA,
        "version": "1.2.3",
        "created": "2025-10-01T00:00:00Z",
        "source": "https://example.com/acme/server",
        "base.name": "debian:trixie",
    }.items()
}
IMAGE = ImageConfig(
    image_id="sha256:0",
    workdir="/",
    entrypoint=("tini", "--", "/usr/local/bin/openhands-agent-server"),
    command=("--host", "0.0.0.0", "--port", "8000"),
    environment={
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "LANG": "C.UTF-8",
        "LC_ALL": "C.UTF-8",
        "OPENHANDS_BUILD_GIT_SHA": SHA,
        "OPENHANDS_BUILD_GIT_REF": "main",
    },
    labels=LABELS,
    ports=frozenset({"8000/tcp"}),
    healthcheck=(),
    history=("RUN /bin/sh -c apt-get install -y tini # buildkit",),
)
CONTRACT = ImageContract(Target("binary"), AGENT_SERVER, "openhands-agent-server", 8000, SHA)


def find_broken(contract: ImageContract = CONTRACT, **changes: Any) -> set[str]:
    image = dataclasses.replace(IMAGE, **changes)
    return {finding.subject for finding in check_config(image, contract) if not finding.ok}


def test_an_image_that_keeps_the_contract_has_no_broken_finding() -> None:
    assert find_broken() == set()
    assert find_broken(entrypoint=("/usr/bin/tini", *IMAGE.entrypoint[1:])) == set()


@pytest.mark.parametrize(
    ("changes", "subject"),
    [
        ({"entrypoint": ()}, "entrypoint"),
        ({"entrypoint": IMAGE.entrypoint[2:]}, "entrypoint"),
        ({"entrypoint": ("/bin/sh", "-c", "tini -- server")}, "entrypoint"),
        ({"command": ()}, "command"),
        ({"workdir": "/app"}, "working directory"),
        ({"ports": frozenset({"9000/tcp"})}, "port"),
        ({"environment": {**IMAGE.environment, "LC_ALL": "POSIX"}}, "LC_ALL"),
        ({"environment": {**IMAGE.environment, "OPENHANDS_BUILD_GIT_REF": ""}}, "OPENHANDS_BUILD_GIT_REF"),
        ({"environment": {**IMAGE.environment, "OPENHANDS_BUILD_GIT_SHA": "f" * 40}}, "OPENHANDS_BUILD_GIT_SHA"),
        ({"labels": {**LABELS, "org.opencontainers.image.version": ""}}, "labels"),
        ({"labels": {**LABELS, "org.opencontainers.image.revision": "f" * 40}}, "revision label"),
        ({"environment": {**IMAGE.environment, "API_KEY": "value"}}, "no secret"),
    ],
)
def test_one_broken_promise_is_one_broken_finding(changes: dict[str, Any], subject: str) -> None:
    assert find_broken(**changes) == {subject}


def test_a_source_image_starts_the_interpreter_of_its_own_environment() -> None:
    contract = CONTRACT._replace(target=Target("source-minimal"))
    assert find_broken(contract) == {"entrypoint"}
    own = ("tini", "--", "/agent-server/.venv/bin/python", "-m", "openhands.agent_server")
    assert find_broken(contract, entrypoint=own) == set()


def test_an_image_of_an_unknown_commit_is_not_held_against_one() -> None:
    contract = CONTRACT._replace(sha=None)
    unknown = {**IMAGE.environment, "OPENHANDS_BUILD_GIT_SHA": "unknown"}
    assert find_broken(contract, environment=unknown) == set()


def test_only_what_a_target_has_is_tried_inside() -> None:
    binary = {probe.subject for probe in list_probes(CONTRACT)}
    source = {probe.subject for probe in list_probes(CONTRACT._replace(target=Target("source")))}
    assert binary - source == {"openhands-agent-server --help"}
    assert source - binary == {"import openhands.agent_server"}


def test_a_failed_probe_says_the_last_thing_that_was_said() -> None:
    probe = Probe("import server", "…", "imported", "run it")
    assert judge_probe(probe, stdout="imported", stderr="a warning").ok
    failed = judge_probe(probe, stdout="", stderr="Traceback\n  …\nModuleNotFoundError: no server")
    assert (failed.ok, failed.detail, failed.fix) == (False, "ModuleNotFoundError: no server", "run it")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("API_KEY", "x"),
        ("RUNTIME_API_KEY", "abc"),
        ("service-token", "abc"),
        ("DB_PASSWORD", "abc"),
        ("HARMLESS", "ghp_" + "a1B2" * 9),
        ("HARMLESS", "AKIA" + "ABCDEFGH12345678"),
        ("HARMLESS", "sk-" + "abcdefghij0123456789"),
        ("INDEX", "https://user:hunter2@example.com/simple"),
        ("HARMLESS", "q9ZtV3xLk0Rb7YcWm2Np8JdFh5Gs1TuAeXoBiKvC"),
        ("HARMLESS", "-----BEGIN RSA PRIVATE KEY-----"),
    ],
)
def test_a_secret_is_found_wherever_it_is_and_never_shown(name: str, value: str) -> None:
    places: list[dict[str, Any]] = [
        {"environment": {name: value}},
        {"labels": {name: value}},
        {"history": (f"RUN |2 A=1 {name.replace('-', '_')}={value.replace(' ', '_')} /bin/sh -c true # buildkit",)},
    ]
    for place in places[: 2 if " " in value else 3]:
        leaks = find_leaks(dataclasses.replace(IMAGE, **place))
        assert leaks, place
        if len(value) > 3:
            assert value not in " ".join(leaks)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("GPG_KEY", "7169605F62C751356D054A26A821E680E5FA6305"),
        ("PYTHON_SHA256", "0123456789abcdef" * 4),
        ("SSL_CERT_FILE", "/etc/ssl/certs/ca-certificates.crt"),
        ("SSH_KEY", "/run/secrets/key"),
        ("API_KEY", ""),
        ("KEYBOARD", "us"),
        ("TOKENIZERS_PARALLELISM", "false"),
        ("PIP_INDEX", "https://pypi.example.com/simple"),
        ("PATH", "/usr/local/nvm/versions/node/v22.11.0/bin:/usr/local/sbin:/usr/local/bin"),
        ("PLAYWRIGHT_BROWSERS_PATH", "/opt/OpenHands/Playwright/Browsers/Chromium1140"),
    ],
)
def test_what_is_no_secret_is_left_alone(name: str, value: str) -> None:
    assert find_leaks(dataclasses.replace(IMAGE, environment={name: value}, labels={name: value})) == []


def test_a_token_in_a_command_of_the_history_is_found() -> None:
    image = dataclasses.replace(IMAGE, history=("RUN curl -H 'X: ghp_" + "a1B2" * 9 + "' https://example.com",))
    assert find_leaks(image) == ["history, layer 1 from the top: a GitHub token"]


def test_a_command_is_started_as_it_is_given_and_nothing_is_appended() -> None:
    settings = Settings(server_command=StartCommand("uvicorn", ("app:app", "--port", "9")), health_path="/ping")
    source = ImageContract.from_settings(settings, Target("source"), None)
    assert source.server == ("/agent-server/.venv/bin/uvicorn", "app:app", "--port", "9")
    binary = ImageContract.from_settings(settings, Target("binary"), None)
    assert binary.server == ("/usr/local/bin/openhands-agent-server", "app:app", "--port", "9")
    assert source.address == ()
    assert source.endpoints == ("/ping",)
    assert "uvicorn" in {probe.subject for probe in list_probes(source)}


def test_a_module_with_arguments_of_its_own_is_a_command() -> None:
    settings = Settings(server_command=StartCommand("python", ("-m", "acme", "--fast")))
    contract = ImageContract.from_settings(settings, Target("binary"), None)
    assert contract.server == ("/usr/local/bin/openhands-agent-server", "--fast")
    assert contract._replace(target=Target("source")).server == (
        "/agent-server/.venv/bin/python",
        "-m",
        "acme",
        "--fast",
    )


def test_only_an_agent_server_has_more_than_the_health_check() -> None:
    assert ImageContract.from_settings(Settings(), Target("source"), None).endpoints == ("/health", "/alive", "/ready")
    other = Settings(server_module="acme.server")
    assert ImageContract.from_settings(other, Target("source"), None).endpoints == ("/health",)
