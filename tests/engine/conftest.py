"""Fixtures: one docker engine, one registry and the base images for the whole session, gone when it ends."""

from __future__ import annotations

import io
import shutil
import tarfile
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from buildkit.engines import find_engine
from tests.engine.services import (
    TRUST_VARIABLES,
    import_image,
    install_buildx,
    make_base_rootfs,
    make_tiny_rootfs,
    require,
    run_dockerd,
    run_registry,
    unmount_below,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from buildkit.engines.engine import Engine
    from tests.engine.services import MakeArchive


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker("engine")


@pytest.fixture(scope="session")
def engine_folder() -> Iterator[Path]:
    """A folder with a short name: the path of a socket has at most 107 characters."""
    folder = Path(tempfile.mkdtemp(prefix="rb-engine-"))
    yield folder
    unmount_below(folder)
    shutil.rmtree(folder)


@pytest.fixture(scope="session")
def docker(engine_folder: Path) -> Iterator[Engine]:
    """A docker engine of the session's own, as `find_engine` finds it; also for the commands that tests start."""
    folder = engine_folder / "docker"
    (folder / "config").mkdir(parents=True)
    (folder / "config/config.json").write_text("{}")  # podman reads it, too, and must find one
    with run_dockerd(folder) as host, pytest.MonkeyPatch.context() as environment:
        environment.setenv("DOCKER_HOST", host)
        environment.setenv("DOCKER_CONFIG", str(folder / "config"))
        yield find_engine("docker")


@pytest.fixture
def buildx(docker: Engine, debian_base: str, engine_folder: Path) -> Iterator[Engine]:
    """The same engine through Debian's buildx plugin, which is there for this test only."""
    with install_buildx(docker, debian_base, engine_folder / "docker/config"):
        yield find_engine("auto", ["default"])


@pytest.fixture(scope="module")
def docker_or_buildx(
    request: pytest.FixtureRequest, docker: Engine, debian_base: str, engine_folder: Path
) -> Iterator[Engine]:
    """The engine as its parameter says, with the plugin or without it, for a module."""
    if request.param == "docker":
        yield docker
        return
    with install_buildx(docker, debian_base, engine_folder / "docker/config"):
        yield find_engine("buildx")


@pytest.fixture(scope="session")
def registry(engine_folder: Path) -> Iterator[str]:
    folder = engine_folder / "registry"
    folder.mkdir()
    with run_registry(folder) as address:
        yield address


@pytest.fixture(scope="session")
def tiny_rootfs(engine_folder: Path) -> Path:
    return make_tiny_rootfs(engine_folder)


@pytest.fixture(scope="session")
def tiny_base(docker: Engine, tiny_rootfs: Path) -> str:
    """An image that holds one static shell."""
    return import_image(docker, tiny_rootfs, "localhost/tiny:1", {})


@pytest.fixture(scope="session")
def debian_base(docker: Engine) -> str:
    """An image that stands in for the public base image: a Debian with Python, and the machine's authorities."""
    return import_image(docker, make_base_rootfs(), "localhost/base:1", TRUST_VARIABLES)


@pytest.fixture(scope="session")
def containers_storage(engine_folder: Path) -> Iterator[Path]:
    """Storage of the session's own for podman and buildah."""
    require("buildah", "podman")
    folder = engine_folder / "containers"
    folder.mkdir()
    storage = folder / "storage.conf"
    storage.write_text(f'[storage]\ndriver = "overlay"\ngraphroot = "{folder}/root"\nrunroot = "{folder}/run"\n')
    limits = folder / "containers.conf"
    limits.write_text('[containers]\ndefault_ulimits = ["nofile=1024:1024", "nproc=1024:1024"]\n')
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("CONTAINERS_STORAGE_CONF", str(storage))
        environment.setenv("CONTAINERS_CONF", str(limits))
        yield folder


@pytest.fixture
def make_archive(tmp_path: Path) -> MakeArchive:
    """Return a function that packs file contents by name into a `.tar.gz`."""

    def make(files: Mapping[str, str]) -> Path:
        archive = tmp_path / "context.tar.gz"
        with tarfile.open(archive, "w:gz") as tar:
            for name, content in files.items():
                member = tarfile.TarInfo(name)
                member.size = len(content.encode())
                tar.addfile(member, io.BytesIO(content.encode()))
        return archive

    return make
