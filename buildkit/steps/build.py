"""Step `build`: the archive through an engine at hand, into an image."""

from __future__ import annotations

import json
import re
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from buildkit.engines.discovery import check_engine
from buildkit.engines.engine import run_engine, watch_engine
from buildkit.errors import BuildFailed, LocalError
from buildkit.models import LocalBuild
from buildkit.reference import parse_reference

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from buildkit.engines.engine import Engine

    Report = Callable[[str], None]

_SHOWN_LINES = 5
# BuildKit repeats whole RUN instructions; what failed stands at a line's end.
_LINE_BEGINNING, _LINE_END = 60, 140
_FAILED_STEP = re.compile(r"(#\d+ )ERROR: ")
_DIGEST = re.compile(r"#\d+ sha256:\w+")
# podman and buildah do not guess the registry of an image, docker does.
_SHORT_NAME = "did not resolve to an alias"
_BUILD_FIX = "mend what the log names, then run `invoke context build`"


def build_image(
    engine: Engine,
    archive: Path,
    image: str,
    *,
    tags: Sequence[str] = (),
    target: str | None = None,
    push: bool = False,
    network: str | None = None,
    report: Report,
) -> LocalBuild:
    """Return the image that the engine built from the archive, given to it on standard input.

    Args:
        tags: Further full image references for the same image.
        target: A stage; None for the last one, which is what an archive of ours is for.
        push: Whether the image and its tags go to their registries, too.
        network: Of the build's RUN steps, such as `host`; None for the engine's own default.
        report: Gets the log line by line.

    Raises:
        LocalError: There is no such archive.
        BuildFailed: The build or the push failed; carries the end of the log.
        NotStarted: The engine does not answer any more.
    """
    if not archive.is_file():
        raise LocalError(f"{archive.name} is not there", "run `invoke context`")
    started = time.monotonic()
    references = [image, *tags]
    report(f"building {image} with {engine}")
    with tempfile.TemporaryDirectory(prefix="runtime-build-") as folder:
        receipt = Path(folder) / "receipt"
        command = format_build_command(engine, references, target=target, push=push, network=network, receipt=receipt)
        _complete(engine, command, f"build {image}", _BUILD_FIX, stdin=archive, report=report)
        image_id, digest = _read_receipt(engine, receipt)
        if push and engine.name != "buildx":
            digest = _push(engine, references, Path(folder) / "digest", report)
    elapsed_s = round(time.monotonic() - started, 1)
    return LocalBuild(engine.name, image, image_id, digest if push else None, elapsed_s)


def format_build_command(
    engine: Engine, references: Sequence[str], *, target: str | None, push: bool, network: str | None, receipt: Path
) -> list[str]:
    """Return the arguments by which the engine builds the archive on its standard input.

    Args:
        receipt: The file to which the engine writes what it built.
    """
    common = [f"--tag={reference}" for reference in references]
    common += [f"--target={target}"] if target else []
    common += [f"--network={network}"] if network else []
    if engine.name == "docker":
        return ["build", "--progress=plain", f"--iidfile={receipt}", *common, "-"]
    if engine.name == "buildx":
        builder = [f"--builder={engine.builder}"] if engine.builder else []
        output = "--push" if push else "--load"
        return ["buildx", "build", *builder, "--progress=plain", f"--metadata-file={receipt}", output, *common, "-"]
    # Chroot isolation works inside containers, too; the docker format keeps HEALTHCHECK.
    podman = ["--isolation=chroot", "--layers", "--format=docker", f"--iidfile={receipt}"]
    return ["build", *podman, *common, "--file=Dockerfile", "-"]


def _read_receipt(engine: Engine, receipt: Path) -> tuple[str, str | None]:
    """Return image ID and, where buildx has pushed, the digest."""
    text = receipt.read_text(encoding="utf-8").strip()
    if engine.name != "buildx":
        return text, None
    metadata = json.loads(text)
    digest = str(metadata["containerimage.digest"])
    return str(metadata.get("containerimage.config.digest", digest)), digest


def _push(engine: Engine, references: Sequence[str], receipt: Path, report: Report) -> str | None:
    """Return the digest under which the registry keeps the image, after every reference was pushed."""
    for reference in references:
        options: list[str] = []
        if engine.name in ("podman", "buildah"):
            options = [f"--digestfile={receipt}"]
            options += ["--tls-verify=false"] if _is_loopback(reference) else []
        fix = f"log in with `{engine.name} login`, then run the build again: its layers are kept"
        _complete(engine, ["push", *options, reference], f"push {reference}", fix, report=report)
    if engine.name in ("podman", "buildah"):
        return receipt.read_text(encoding="utf-8").strip()
    return _read_repository_digest(engine, references[0])


def _read_repository_digest(engine: Engine, image: str) -> str | None:
    """Return the digest of `image` in its own repository; docker lists one for each repository it knows."""
    output = run_engine(engine, "image", "inspect", "--format={{json .RepoDigests}}", image)
    known = [parse_reference(text) for text in json.loads(output.stdout or "[]") or []]
    wanted = _split_repository(image)
    return next((entry.digest for entry in known if _split_repository(str(entry)) == wanted), None)


def _split_repository(image: str) -> tuple[str, str]:
    """Return registry and repository, written out: docker leaves `docker.io/library/` away when it lists them."""
    reference = parse_reference(image)
    return reference.registry or "docker.io", reference.repository.removeprefix("library/")


def _is_loopback(image: str) -> bool:
    """Return whether the registry is this machine: there docker speaks plain http by itself, and podman does not."""
    host = (parse_reference(image).registry or "").rpartition(":")[0] or parse_reference(image).registry
    return host in ("localhost", "[::1]") or (host or "").startswith("127.")


def _complete(
    engine: Engine, command: Sequence[str], purpose: str, fix: str, *, stdin: Path | None = None, report: Report
) -> None:
    """Run the command to its successful end."""
    code, last_lines = watch_engine(engine, command, stdin=stdin, report=report)
    if not code:
        return
    check_engine(engine)
    end = _cut_end(last_lines)
    if _SHORT_NAME in end:
        fix = (
            "name the registry in BASE_IMAGE, as in docker.io/library/debian, and run `invoke dockerfile context build`"
        )
    raise BuildFailed(f"{engine.name} could not {purpose} (exit code {code}); its log ends: {end}", fix)


def _cut_end(last_lines: Sequence[str]) -> str:
    """Return what the failing step said last; after it BuildKit only repeats the step and its exit code."""
    spoken = [line for line in last_lines if line.strip() and not _DIGEST.fullmatch(line)]
    failed = next((match for line in spoken if (match := _FAILED_STEP.match(line))), None)
    if failed:
        step = [line for line in spoken if line.startswith(failed[1])]
        spoken = step[: step.index(failed.string) + 1]
    return " | ".join(map(_shorten, spoken[-_SHOWN_LINES:]))


def _shorten(line: str) -> str:
    if len(line) <= _LINE_BEGINNING + _LINE_END:
        return line
    return f"{line[:_LINE_BEGINNING]} … {line[-_LINE_END:]}"
