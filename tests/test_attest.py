"""Task `build --attest` through the command, with a small program in the place of docker and its buildx plugin."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

import pytest

from buildkit.engines.docker import Buildx
from buildkit.engines.options import BuildOptions

if TYPE_CHECKING:
    from pathlib import Path

    from tests.commands import Command

DIGEST = "sha256:" + "d" * 64
# Writes the receipt that buildx writes; `imagetools inspect` prints what the file `attested` holds.
BUILDX = """#!/bin/sh
echo "$@" >>{folder}/asked
case "$1 $2" in
"version --format") echo '{{"Client": {{"Version": "28.0.0"}}, "Server": {{"Version": "28.0.0"}}}}' ;;
"buildx version") echo "github.com/docker/buildx v0.29.1 abc" ;;
"buildx build")
    cat >/dev/null
    for word in "$@"; do
        case "$word" in --metadata-file=*) echo '{{"containerimage.digest": "{digest}"}}' >"${{word#*=}}" ;; esac
    done ;;
"buildx imagetools") cat {folder}/attested ;;
*) exit 1 ;;
esac
"""
FOUND = {"sbom": {"SPDX": {"name": "app"}}, "provenance": {"SLSA": {"buildDefinition": {}}}}


@pytest.fixture
def engine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of that program."""
    folder = tmp_path_factory.mktemp("engine")
    program = folder / "bin/docker"
    program.parent.mkdir()
    program.write_text(BUILDX.format(folder=folder, digest=DIGEST))
    program.chmod(0o755)
    return folder


@pytest.fixture
def packed(command: Command, engine: Path) -> Command:
    """A packed checkout, with that program on the PATH."""
    (engine / "attested").write_text(json.dumps(FOUND))
    command.environment["PATH"] = f"{engine}/bin{os.pathsep}{command.environment['PATH']}"
    command.environment |= {"TARGET_IMAGE": "registry.example/app:1", "ENGINE": "buildx"}
    command.run("all").succeed()
    return command


def test_what_the_registry_has_is_kept_with_the_digest(packed: Command, engine: Path) -> None:
    packed.run("build", "--push", "--attest").succeed()
    kept = json.loads((packed.output / "attestations.json").read_text())
    assert kept == {
        "schema": 1,
        "image": f"registry.example/app@{DIGEST}",
        "sbom": {"name": "app"},
        "provenance": {"buildDefinition": {}},
    }
    asked = (engine / "asked").read_text()
    assert "--push --sbom=true --provenance=mode=max " in asked
    assert f" registry.example/app@{DIGEST}\n" in asked
    packed.run("build", "--push").succeed()
    assert not (packed.output / "attestations.json").exists()


def test_clean_removes_it(packed: Command) -> None:
    packed.run("build", "--push", "--attest=registry.example/scanner:1").succeed()
    packed.run("clean").succeed()
    assert not (packed.output / "attestations.json").exists()


def test_attestations_that_cannot_be_read_are_an_error_and_the_image_stays_on_record(
    packed: Command, engine: Path
) -> None:
    (engine / "attested").write_text('{"sbom": null, "provenance": null}')
    packed.run("build", "--push", "--attest").fail(6, f"registry.example/app@{DIGEST} was pushed", "--attest")
    assert packed.read_state("build")["digest"] == DIGEST
    assert not (packed.output / "attestations.json").exists()


@pytest.mark.parametrize(
    ("flags", "chosen", "texts"),
    [
        (("--attest",), "buildx", ("--attest needs a registry", "--push")),
        (("--attest", "--push"), "docker", ("docker makes neither SBOM nor provenance", "ENGINE=buildx")),
        (("--attest=UPPER CASE", "--push"), "buildx", ("--attest",)),
    ],
)
def test_nothing_is_built_without_what_attests(
    packed: Command, engine: Path, flags: tuple[str, ...], chosen: str, texts: tuple[str, ...]
) -> None:
    packed.run("build", *flags, ENGINE=chosen).fail(2, *texts)
    assert not (engine / "asked").exists() or "buildx build" not in (engine / "asked").read_text()


def test_a_scanner_is_named_by_its_image(tmp_path: Path) -> None:
    command = Buildx("docker").format_build(["a:1"], BuildOptions(push=True, attest="h/scanner:1"), tmp_path)
    assert "--sbom=generator=h/scanner:1" in command
