"""What every local engine does: check that it responds, build an archive, push images, run containers."""

from __future__ import annotations

import re
import tempfile
import time
from abc import ABC, abstractmethod
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Self

from buildkit.advice import advise_build
from buildkit.engines.process import Output, format_line, run_command, watch_command
from buildkit.errors import BuildFailed, NotStarted, run
from buildkit.terminal import strip_sequences

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from threading import Event

    from buildkit.engines.process import Translate

    Report = Callable[[str], None]
    Watch = Callable[[Sequence[str]], tuple[int, list[str]]]

CHECK_TIMEOUT_S = 20.0
PROBE_TIMEOUT_S = 600.0
_SHOWN_LINES = 5
# BuildKit repeats whole RUN instructions; what failed is at the end of the line.
_LINE_BEGINNING, _LINE_END = 60, 140
_FAILED_STEP = re.compile(r"(#\d+ )ERROR: ")
_DIGEST_LINE = re.compile(r"#\d+ sha256:\w+")
# What BuildKit's clients say last when they cannot connect, or lose the connection in the middle of a build; steps say
# nothing after it. A step that takes too long is not among them: its error begins with `failed to solve`.
_CONNECTION_LOST = re.compile(
    r"(?:ERROR|error): (?:[\w ]+: )*(?:rpc error: code = )?Unavailable\b.*|error during connect: .*"
    r"|ERROR: (?:failed to build: )?context deadline exceeded"
)
_BUILD_FIX = f"fix what the log names, then run {run('context build')}"


class BuildOptions(NamedTuple):
    """How an image is built.

    Attributes:
        push: Whether the image goes to its registry, under every name.
        network: Of the RUN steps, such as `host`; the engine's own default if empty.
        target: A stage; the last one if empty, which is what our archives are made for.
        cancelled: Set from any thread to cancel the build.
        structured: Whether BuildKit reports its steps as JSON where it can, which gives exact times and whole logs. The
            lines that are reported look the same.
        build_args: Values of the Dockerfile's arguments, by name.
        attest: If not empty, the pushed image gets provenance and an SBOM: `true` for one by the engine's own scanner,
            otherwise the scanner's image.
    """

    push: bool = False
    network: str = ""
    target: str = ""
    cancelled: Event | None = None
    structured: bool = False
    build_args: Mapping[str, str] = {}
    attest: str = ""


class BuiltImage(NamedTuple):
    """An image as its engine reports it; `digest` is the registry's, or None if nothing was pushed."""

    image_id: str
    digest: str | None
    elapsed_s: float


class Attestations(NamedTuple):
    """What is attested of an image: a document of SPDX, and provenance of SLSA."""

    sbom: dict[str, Any]
    provenance: dict[str, Any]


class Engine(ABC):
    """An engine that responds, reached through a command-line program.

    Attributes:
        name: What ENGINE calls it.
        command: The name of its program on the PATH.
        program: Path of the program that responded: of several on the PATH, the first one that works.
        version: What the engine reports.
        image_format: How it lists a reference.
        hints: What to do, by a text that a failed command's log ends with.
    """

    name: ClassVar[str]
    command: ClassVar[str]
    package: ClassVar[str]
    hints: ClassVar[dict[str, str]] = {}
    runs_containers: ClassVar[bool] = True
    image_format: ClassVar[str] = "{{.Repository}}:{{.Tag}}"
    # Whether it knows `COPY --link`; set by `check`.
    links_layers = False
    can_attest: ClassVar[bool] = False

    def __init__(self, program: str) -> None:
        self.program = program
        self.version = ""

    def __str__(self) -> str:
        return " ".join(part for part in (self.name, self.version, f"({self.program})") if part)

    @property
    def advice(self) -> str:
        """What to do if it does not respond."""
        return f"install and start it (on Debian: `apt-get install {self.package}`), or set ENGINE=auto"

    def check(self) -> Self:
        """Return the engine with its version, once it has responded.

        Raises:
            NotStarted: It does not respond, or cannot build with BuildKit.
        """
        self.version = self._read_version()
        return self

    def run(self, *arguments: str, stdin: str = "", timeout_s: float = 60.0) -> Output:
        """Return what a command of the engine left; see `run_command`."""
        return run_command([self.program, *arguments], stdin=stdin, timeout_s=timeout_s)

    def build(self, archive: int, images: Sequence[str], options: BuildOptions, report: Report) -> BuiltImage:
        """Build the archive and return the image.

        Args:
            archive: Descriptor of the tar.gz, read as the build's standard input.
            images: References for the image, the first one first.
            report: Called with each line of the log, which may have colours, but no other control characters.

        Raises:
            BuildFailed: The build or the push failed; the message has the end of the log.
            NotStarted: The engine no longer responds.
        """
        started = time.monotonic()
        watch = partial(watch_command, report=report, cancelled=options.cancelled)
        with tempfile.TemporaryDirectory(prefix="runtime-build-") as folder:
            receipt = Path(folder) / "receipt"
            command = self.format_build(images, options, receipt)
            watch_build = partial(watch, stdin=archive, translate=self._choose_translation(options))
            self._watch(command, f"build {images[0]}", _BUILD_FIX, watch_build)
            image_id, digest = self._read_receipt(receipt.read_text(encoding="utf-8").strip())
            if options.push and digest is None:
                digest = self._push(images, receipt, watch)
        return BuiltImage(image_id, digest if options.push else None, round(time.monotonic() - started, 1))

    def list_images(self) -> set[str]:
        """Return the references in the engine's own store, as they are given to it."""
        listed = self._ask("images", f"--format={self.image_format}").splitlines()
        return {line.removeprefix("localhost/") for line in listed} | set(listed)

    def find_data_folder(self) -> str | None:
        """Return where the engine keeps its images, if that is a folder of this machine."""
        return None

    def prune_cache(self, descriptions: str) -> bool:  # noqa: ARG002 - of those that can choose
        """Remove old build cache and nothing else, no image, container or volume; return whether that is possible.

        Args:
            descriptions: A regular expression without backslashes and quotes, for the steps whose cache may go.
        """
        return False

    def probe(self, image: str, script: str) -> str:
        """Return what a shell script prints in a container of an image, which is pulled if it is missing.

        Raises:
            NotStarted: It cannot be run.
        """
        words = ("run", "--rm", "--network=none", "--entrypoint=sh", image, "-c", script)
        return self._read_probe(self.run(*words, timeout_s=PROBE_TIMEOUT_S), image)

    def _read_probe(self, output: Output, image: str) -> str:
        if output.code:
            reason = (output.stderr or f"exit code {output.code}").splitlines()[-1]
            raise NotStarted(f"{self.program} cannot run {image}: {reason}", "check the name of the image")
        return f"{output.stdout}\n{output.stderr}"

    def read_attestations(self, image: str) -> Attestations:
        """Return what is attested of an image in a registry, given with its digest.

        Raises:
            BuildFailed: Something is missing.
        """
        raise NotImplementedError(f"{self.name} attests nothing")

    @abstractmethod
    def format_build(self, images: Sequence[str], options: BuildOptions, receipt: Path) -> list[str]:
        """Return the arguments that build the archive on standard input.

        Args:
            receipt: The file to which the engine writes what it built.
        """

    def _choose_translation(self, options: BuildOptions) -> Translate:  # noqa: ARG002 - of those that report JSON
        """Return what turns the output of a build into lines."""
        return format_line

    @abstractmethod
    def _read_version(self) -> str: ...

    @abstractmethod
    def _read_receipt(self, text: str) -> tuple[str, str | None]:
        """Return the image ID and, if the build pushed the image itself, its digest."""

    @abstractmethod
    def _push_arguments(self, image: str, receipt: Path) -> list[str]:
        """Return the options with which an image is pushed."""

    @abstractmethod
    def _read_digest(self, image: str, receipt: Path) -> str | None:
        """Return the digest of a pushed image in its registry."""

    def _push(self, images: Sequence[str], receipt: Path, watch: Watch) -> str | None:
        """Push every reference and return the digest of the first one."""
        fix = f"log in with `{self.command} login`, then run the build again: its layers are kept"
        for image in images:
            self._watch(["push", *self._push_arguments(image, receipt), image], f"push {image}", fix, watch)
        return self._read_digest(images[0], receipt)

    def _ask(self, *arguments: str) -> str:
        """Return the output of a command that must succeed, and soon."""
        output = self.run(*arguments, timeout_s=CHECK_TIMEOUT_S)
        if output.code:
            reason = (output.stderr or output.stdout or f"exit code {output.code}").splitlines()[0]
            raise NotStarted(f"{self.program} {' '.join(arguments[:2])}: {reason}", self.advice)
        return output.stdout

    def _watch(self, arguments: Sequence[str], purpose: str, fix: str, watch: Watch) -> None:
        """Run a long command to its successful end."""
        code, last_lines = watch([self.program, *arguments])
        if code:
            self.check()  # an engine that no longer responds is not a failed build
            if last_lines and _CONNECTION_LOST.fullmatch(last_lines[-1]):  # nor is one that is back already
                raise NotStarted(f"{self.name} was lost during {purpose}: {last_lines[-1]}", "run it again")
            end = _shorten_log(last_lines)
            fix = next((better for text, better in self.hints.items() if text in end), fix)
            if fix == _BUILD_FIX:
                fix = advise_build("\n".join(map(strip_sequences, last_lines))) or fix
            raise BuildFailed(f"{self.name} could not {purpose} (exit code {code}); its log ends: {end}", fix)


def format_common(images: Sequence[str], options: BuildOptions) -> list[str]:
    """Return the arguments of a build that every engine spells the same."""
    common = [f"--tag={image}" for image in images]
    common += [f"--build-arg={name}={value}" for name, value in options.build_args.items()]
    common += [f"--target={options.target}"] if options.target else []
    return common + ([f"--network={options.network}"] if options.network else [])


def _shorten_log(last_lines: Sequence[str]) -> str:
    """Return the last output of the failing step; after it, BuildKit only repeats the step and its exit code."""
    lines = [line for line in map(strip_sequences, last_lines) if line.strip() and not _DIGEST_LINE.fullmatch(line)]
    failed = next((match for line in lines if (match := _FAILED_STEP.match(line))), None)
    if failed:
        step = [line for line in lines if line.startswith(failed[1])]
        lines = step[: step.index(failed.string) + 1]
    return " | ".join(map(_shorten_line, lines[-_SHOWN_LINES:]))


def _shorten_line(line: str) -> str:
    if len(line) <= _LINE_BEGINNING + _LINE_END:
        return line
    return f"{line[:_LINE_BEGINNING]} … {line[-_LINE_END:]}"
