"""podman, and buildah, which builds for it."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from buildkit.engines.engine import Engine
from buildkit.engines.options import BuildOptions, format_common
from buildkit.errors import run

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


class Podman(Engine):
    """podman."""

    name = "podman"
    command = "podman"
    package = "podman"
    writes_digest = True
    plain_http = "--tls-verify=false"
    # Unlike docker, podman and buildah do not guess the registry of an image.
    hints: ClassVar[dict[str, str]] = {
        "did not resolve to an alias": "name the registry in BASE_IMAGE, as in docker.io/library/debian,"
        f" and run {run('dockerfile context build')}"
    }

    def format_build(self, images: Sequence[str], options: BuildOptions, receipt: Path) -> list[str]:
        """Return the arguments of `podman build`; chroot isolation also works inside containers."""
        own = ["--isolation=chroot", "--layers", "--format=docker", f"--iidfile={receipt}"]  # docker keeps HEALTHCHECK
        return ["build", *own, *format_common(images, options), "--file=Dockerfile", "-"]

    def _read_version(self) -> str:
        return self._ask("info", "--format", "{{.Version.Version}}")


class Buildah(Podman):
    """buildah: it builds and pushes, and runs no containers."""

    name = "buildah"
    command = "buildah"
    package = "buildah"
    runs_containers = False
    image_format: ClassVar[str] = "{{.Name}}:{{.Tag}}"

    def _read_version(self) -> str:
        self._ask("info")
        return self._ask("--version").removeprefix("buildah version ").split(" ")[0]
