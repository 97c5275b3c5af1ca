"""Many images from one context, with a real engine and a real registry: shared layers, and names by content."""

from __future__ import annotations

import json
import os
import urllib.request
from typing import TYPE_CHECKING, Any

import pytest

from tests.checkouts import commit_all

if TYPE_CHECKING:
    from buildkit.engines.engine import Engine
    from tests.commands import Command

ACCEPT = "application/vnd.oci.image.manifest.v1+json, application/vnd.docker.distribution.manifest.v2+json"
DOCKERFILE = """
ARG BASE_IMAGE=scratch
ARG BUILDER_IMAGE=scratch
FROM ${BUILDER_IMAGE} AS builder
RUN echo "the server is built" && echo server >/tmp/server
FROM ${BASE_IMAGE} AS source-minimal
COPY --from=builder --chown=10001:10001 /tmp/server /tmp/server
"""


@pytest.fixture
def bases(docker: Engine, registry: str, tiny_base: str) -> list[str]:
    """Three base images in the registry, which differ in one layer."""
    made = []
    for number in (1, 2, 3):
        base = f"{registry}/bases/tiny:{number}"
        built = docker.run(
            "build", "--network=host", f"--tag={base}", "-", stdin=f"FROM {tiny_base}\nRUN echo {number} >/tmp/number\n"
        )
        assert built.code == 0, built.stderr
        pushed = docker.run("push", base)
        assert pushed.code == 0, pushed.stderr
        made.append(base)
    return made


def list_layers(registry: str, repository: str, tag: str) -> list[str]:
    request = urllib.request.Request(f"http://{registry}/v2/{repository}/manifests/{tag}", headers={"Accept": ACCEPT})
    with urllib.request.urlopen(request) as response:
        return [layer["digest"] for layer in json.load(response)["layers"]]


def read_results(command: Command) -> list[dict[str, Any]]:
    results: list[dict[str, Any]] = json.loads((command.output / "images.json").read_text())["images"]
    return results


@pytest.mark.usefixtures("docker")
def test_the_server_is_built_once_and_is_one_layer_on_every_base(
    command: Command, registry: str, bases: list[str]
) -> None:
    (command.checkout / "own.Dockerfile").write_text(DOCKERFILE)
    (command.checkout / "bases.txt").write_text("\n".join(bases))
    commit_all(command.checkout)
    repository = "team/agent-server"
    command.environment |= {name: os.environ[name] for name in ("DOCKER_HOST", "DOCKER_CONFIG")}
    command.environment |= {"DOCKERFILE": "own.Dockerfile", "IMAGE_NAME": f"{registry}/{repository}"}
    command.environment |= {"BUILDER_IMAGE": bases[0], "ENGINE": "docker"}
    arguments = ("images", "--bases", "bases.txt", "--push", "--network", "host", "--workers", "3")

    first = command.run(*arguments).succeed()
    results = read_results(command)
    assert [result["status"] for result in results] == ["built"] * 3
    assert len({result["digest"] for result in results}) == 3
    tags = [result["reference"].rpartition(":")[2] for result in results]
    layers = [list_layers(registry, repository, tag) for tag in tags]
    # A second run of the builder would give the file another time, and so another layer.
    assert len({names[-1] for names in layers}) == 1
    assert len({names[-2] for names in layers}) == 3
    assert all(result["bytes_pushed"] < 10_000 for result in results)
    assert [result["base_digest"] is not None for result in results] == [True] * 3

    second = command.run(*arguments).succeed()
    assert second.out == first.out
    assert [result["status"] for result in read_results(command)] == ["already there"] * 3
    assert [result["digest"] for result in read_results(command)] == [result["digest"] for result in results]

    (command.checkout / "bases.txt").write_text(f"{bases[1]}\n{registry}/bases/tiny:none\n")
    command.run(*arguments).fail(6, "1 of 2 images are missing: bases-tiny-none")
    assert "does not exist" in read_results(command)[1]["error"]
