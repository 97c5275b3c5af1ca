"""podman, and buildah, which builds for it."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from buildkit.engines.engine import BuildOptions, Engine, format_common
from buildkit.errors import run
from buildkit.reference import parse_reference

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


class Podman(Engine):
    """podman."""

    name = "podman"
    command = "podman"
    package = "podman"
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

    def _read_receipt(self, text: str) -> tuple[str, str | None]:
        return text, None

    def _push_arguments(self, image: str, receipt: Path) -> list[str]:
        registry = parse_reference(image).registry or ""
        host = registry.rpartition(":")[0] or registry
        # To a registry on this machine, docker speaks plain http by itself, and podman does not.
        is_loopback = host in {"localhost", "[::1]"} or host.startswith("127.")
        return [f"--digestfile={receipt}", *(["--tls-verify=false"] if is_loopback else [])]

    def _read_digest(self, image: str, receipt: Path) -> str | None:  # noqa: ARG002 - the receipt is the image's
        return receipt.read_text(encoding="utf-8").strip()


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
