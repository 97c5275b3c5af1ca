"""docker, and buildx with its builders."""

from __future__ import annotations

import json
import os
import re
import time
from typing import TYPE_CHECKING, ClassVar

from buildkit.engines.engine import CHECK_TIMEOUT_S, PROBE_TIMEOUT_S, Engine
from buildkit.engines.options import Attestations, BuildOptions, format_common
from buildkit.errors import BuildFailed, NotStarted
from buildkit.reference import parse_reference

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

_FIRST_WITH_RAWJSON = (0, 13)
# The first docker whose BuildKit knows `COPY --link` without a syntax line.
_FIRST_WITH_LINK = 23
_UNUSED = "1h"
_ATTEST_FIX = "push to a registry that stores attestations, or build without --attest"


class Docker(Engine):
    """A docker client and the engine that it reaches."""

    name = "docker"
    command = "docker"
    package = "docker.io"
    # From this version on, `docker build` needs the plugin for BuildKit (https://docs.docker.com/go/buildx/).
    first_client_needing_buildx: ClassVar[int] = 23

    def find_data_folder(self) -> str | None:
        """Return docker's folder, unless the engine is on another machine."""
        folder = self.run("info", "--format={{.DockerRootDir}}", timeout_s=CHECK_TIMEOUT_S).stdout
        return folder if os.path.isdir(folder) else None

    def _format_prune(self) -> list[str]:
        """Return the arguments that remove what no build has used for an hour: those of the plugin, if there is one."""
        command = ["buildx", "prune", *self._format_builder(), "--force", "--all", f"--filter=until={_UNUSED}"]
        return command if self.reports_json else []

    def _format_builder(self) -> list[str]:
        return []

    def format_build(self, images: Sequence[str], options: BuildOptions, receipt: Path) -> list[str]:
        """Return the arguments of `docker build`."""
        return ["build", self._format_progress(options), f"--iidfile={receipt}", *format_common(images, options), "-"]

    def _read_version(self) -> str:
        response = json.loads(self._ask("version", "--format", "{{json .}}"))
        client = str(response["Client"]["Version"])
        needs_plugin = int(client.partition(".")[0]) >= self.first_client_needing_buildx
        plugin = self.run("buildx", "version", timeout_s=CHECK_TIMEOUT_S) if needs_plugin else None
        if plugin and plugin.code:
            raise NotStarted(
                f"{self.program} {client} has no buildx plugin, which it needs for BuildKit",
                "install the plugin (on Debian: `apt-get install docker-buildx`)",
            )
        self.reports_json = plugin is not None and _can_report_json(plugin.stdout)
        server = str(response["Server"]["Version"])
        self.links_layers = int(server.partition(".")[0]) >= _FIRST_WITH_LINK
        return server

    def _format_progress(self, options: BuildOptions) -> str:
        return f"--progress={'rawjson' if self._uses_json(options) else 'plain'}"

    def _find_digest(self, image: str) -> str | None:
        # docker lists one digest for each repository that it knows.
        output = self.run("image", "inspect", "--format={{json .RepoDigests}}", image)
        known = [parse_reference(text) for text in json.loads(output.stdout or "[]") or []]
        wanted = _split_repository(image)
        return next((entry.digest for entry in known if _split_repository(str(entry)) == wanted), None)


class Buildx(Docker):
    """The buildx plugin, with the builder that is current or the one that BUILDER names, perhaps on other hosts."""

    name = "buildx"
    package = "docker.io docker-buildx"
    first_client_needing_buildx = 0
    can_attest = True
    hints: ClassVar[dict[str, str]] = {
        "Attestation is not supported": "create a builder that can: `docker buildx create --name attesting "
        "--driver docker-container`, then set BUILDER=attesting"
    }

    def __init__(self, program: str, builder: str = "") -> None:
        super().__init__(program)
        self.builder = builder

    @property
    def advice(self) -> str:
        """What to do if it does not respond."""
        if not self.builder:
            return super().advice
        return f"create the builder: `docker buildx create --name {self.builder} …`; `docker buildx ls` lists builders"

    def format_build(self, images: Sequence[str], options: BuildOptions, receipt: Path) -> list[str]:
        """Return the arguments of `docker buildx build`."""
        output = [f"--metadata-file={receipt}", "--push" if options.push else "--load"]
        return [
            "buildx",
            "build",
            *self._format_builder(),
            self._format_progress(options),
            *output,
            *_format_attest(options),
            *format_common(images, options),
            "-",
        ]

    def find_data_folder(self) -> str | None:
        """Return docker's folder; where a named builder keeps its cache is not known."""
        return None if self.builder else super().find_data_folder()

    def _format_builder(self) -> list[str]:
        return [f"--builder={self.builder}"] if self.builder else []

    def probe(self, image: str, script: str) -> str:
        """Return what a shell script prints in an image: in a RUN step that leaves nothing, if a builder is named."""
        if not self.builder:
            return super().probe(image, script)
        # The time makes it another step than that of an earlier build, which would be cached and print nothing.
        dockerfile = f"FROM {image}\nRUN : {time.time_ns()}; {script}\n"
        words = ["buildx", "build", *self._format_builder(), "--progress=plain", "--network=none"]
        words += ["--output=type=cacheonly", "-"]
        return self._read_probe(self.run(*words, stdin=dockerfile, timeout_s=PROBE_TIMEOUT_S), image)

    def read_attestations(self, image: str) -> Attestations:
        """Return what is attested of an image in a registry, given with its digest."""
        form = '{"sbom": {{json .SBOM}}, "provenance": {{json .Provenance}}}'
        output = self.run("buildx", "imagetools", "inspect", *self._format_builder(), f"--format={form}", image)
        found = json.loads(output.stdout) if output.code == 0 else {}
        sbom, provenance = (found.get("sbom") or {}).get("SPDX"), (found.get("provenance") or {}).get("SLSA")
        if not sbom or not provenance:
            reason = (output.stderr or "the registry has no SBOM or no provenance").splitlines()[0]
            raise BuildFailed(f"{image} was pushed, but its attestations cannot be read: {reason}", _ATTEST_FIX)
        return Attestations(sbom, provenance)

    def _read_version(self) -> str:
        if not self.builder:
            return super()._read_version()
        version = self._ask("buildx", "version")
        problem = _find_problem(self._ask("buildx", "inspect", self.builder))
        if problem:
            raise NotStarted(f"builder {self.builder}: {problem}", self.advice)
        self.reports_json = _can_report_json(version)
        self.links_layers = True
        return version.split(" ")[1]

    def _read_receipt(self, text: str) -> tuple[str, str | None]:
        metadata = json.loads(text)
        digest = str(metadata["containerimage.digest"])
        return str(metadata.get("containerimage.config.digest", digest)), digest


def _format_attest(options: BuildOptions) -> list[str]:
    if not options.attest:
        return []
    scanner = "true" if options.attest == "true" else f"generator={options.attest}"
    return [f"--sbom={scanner}", "--provenance=mode=max"]


def _find_problem(inspected: str) -> str:
    """Return why a builder cannot build, or an empty text; `inspect` succeeds for one that it cannot reach."""
    found: list[tuple[str, str]] = re.findall(r"^(Driver|Error|Status):\s*(.+)", inspected, re.MULTILINE)
    errors = [value for name, value in found if name == "Error"]
    if errors:
        return errors[0]
    # A build starts the inactive nodes of other drivers. Those of this one are somebody else's to start.
    is_down = ("Driver", "remote") in found and ("Status", "running") not in found
    return "its BuildKit does not respond" if is_down else ""


def _can_report_json(version: str) -> bool:
    """Return whether the buildx plugin with this version text has `--progress=rawjson`."""
    match = re.search(r" v?(\d+)\.(\d+)", version)
    return match is not None and (int(match[1]), int(match[2])) >= _FIRST_WITH_RAWJSON


def _split_repository(image: str) -> tuple[str, str]:
    """Return the registry and the repository in full: docker omits `docker.io/library/` in its lists."""
    reference = parse_reference(image)
    return reference.registry or "docker.io", reference.repository.removeprefix("library/")
