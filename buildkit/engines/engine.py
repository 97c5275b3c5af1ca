"""What every local engine does: check that it responds, build an archive, push images, run containers."""

from __future__ import annotations

import tempfile
import time
from abc import ABC, abstractmethod
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Self
from urllib.parse import urlsplit

from buildkit.advice import advise_build
from buildkit.display import strip_sequences
from buildkit.engines.options import BuiltImage
from buildkit.engines.process import Output, format_line, run_command, watch_command
from buildkit.engines.progress import JsonProgress, find_lost_connection, shorten_log
from buildkit.errors import BuildFailed, NotStarted, run
from buildkit.reference import parse_reference
from buildkit.values import is_loopback

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from buildkit.engines.options import Attestations, BuildOptions

    Advise = Callable[[Sequence[str]], str]
    Report = Callable[[str], None]
    Watch = Callable[[Sequence[str]], tuple[int, list[str]]]

CHECK_TIMEOUT_S = 20.0
PROBE_TIMEOUT_S = 600.0
_PRUNE_TIMEOUT_S = 600.0
_BUILD_FIX = f"fix what the log names, then run {run('context build')}"


class Engine(ABC):
    """An engine that responds, reached through a command-line program.

    Attributes:
        name: What ENGINE calls it.
        command: The name of its program on the PATH.
        program: Path of the program that responded: of several on the PATH, the first one that works.
        version: What the engine reports.
        links_layers: Whether it knows `COPY --link`; set by `check`.
        reports_json: Whether it can report its steps as JSON; set by `check`.
        image_format: How it lists a reference.
        hints: What to do, by a text that a failed command's log ends with.
        writes_digest: Whether a push can write the digest into a file.
        plain_http: The option for a registry on this machine, unless the engine speaks plain http to it by itself.
    """

    name: ClassVar[str]
    command: ClassVar[str]
    package: ClassVar[str]
    hints: ClassVar[dict[str, str]] = {}
    runs_containers: ClassVar[bool] = True
    can_attest: ClassVar[bool] = False
    image_format: ClassVar[str] = "{{.Repository}}:{{.Tag}}"
    writes_digest: ClassVar[bool] = False
    plain_http: ClassVar[str] = ""

    def __init__(self, program: str) -> None:
        self.program = program
        self.version = ""
        self.links_layers = False
        self.reports_json = False

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
            watch_build = partial(
                watch, stdin=archive, translate=JsonProgress() if self._uses_json(options) else format_line
            )
            self._watch(command, f"build {images[0]}", _advise_build, watch_build)
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

    def prune_cache(self, descriptions: str) -> bool:
        """Remove old build cache and nothing else, no image, container or volume; return whether that is possible.

        Args:
            descriptions: A regular expression without backslashes and quotes, for the steps whose cache may go.
        """
        command = self._format_prune()
        chosen = f'--filter=description~="{descriptions}"'
        return bool(command) and self.run(*command, chosen, timeout_s=_PRUNE_TIMEOUT_S).code == 0

    def _format_prune(self) -> list[str]:
        """Return the arguments that remove old build cache, of those who can choose by description."""
        return []

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

    def _uses_json(self, options: BuildOptions) -> bool:
        return options.structured and self.reports_json

    @abstractmethod
    def _read_version(self) -> str: ...

    def _read_receipt(self, text: str) -> tuple[str, str | None]:
        """Return the image ID and, if the build pushed the image itself, its digest."""
        return text, None

    def _find_digest(self, image: str) -> str | None:
        """Return the digest of a pushed image in its registry, of those who write none."""
        raise NotImplementedError(f"{self.name} writes the digest of {image}")

    def _push(self, images: Sequence[str], receipt: Path, watch: Watch) -> str | None:
        """Push every reference and return the digest of the first one."""
        fix = f"log in with `{self.command} login`, then run the build again: its layers are kept"
        for image in images:
            command = ["push", *([f"--digestfile={receipt}"] if self.writes_digest else [])]
            if self.plain_http and is_loopback(urlsplit(f"//{parse_reference(image).registry}").hostname or ""):
                command.append(self.plain_http)
            self._watch([*command, image], f"push {image}", lambda _: fix, watch)
        return receipt.read_text(encoding="utf-8").strip() if self.writes_digest else self._find_digest(images[0])

    def _ask(self, *arguments: str) -> str:
        """Return the output of a command that must succeed, and soon."""
        output = self.run(*arguments, timeout_s=CHECK_TIMEOUT_S)
        if output.code:
            reason = (output.stderr or output.stdout or f"exit code {output.code}").splitlines()[0]
            raise NotStarted(f"{self.program} {' '.join(arguments[:2])}: {reason}", self.advice)
        return output.stdout

    def _watch(self, arguments: Sequence[str], purpose: str, advise: Advise, watch: Watch) -> None:
        """Run a long command to its successful end; `advise` says from its last lines what to do about its failure."""
        code, last_lines = watch([self.program, *arguments])
        if code:
            self.check()  # an engine that no longer responds is not a failed build
            if lost := find_lost_connection(last_lines):  # nor is one that is back already
                raise NotStarted(f"{self.name} was lost during {purpose}: {lost}", "run it again")
            end = shorten_log(last_lines)
            fix = next((hint for text, hint in self.hints.items() if text in end), "") or advise(last_lines)
            raise BuildFailed(f"{self.name} could not {purpose} (exit code {code}); its log ends: {end}", fix)


def _advise_build(last_lines: Sequence[str]) -> str:
    """Return what to do about a build that failed, as far as its log says what it lacks."""
    return advise_build("\n".join(map(strip_sequences, last_lines))) or _BUILD_FIX
