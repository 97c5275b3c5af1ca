"""A Dockerfile derived from the source's own: build arguments filled in, and the target as the last stage.

Everything after the target's stage is cut off. Appending `FROM target` would make it the last stage too, but would run
its ONBUILD triggers. All other lines stay as they are, except for ARG instructions that get a value.
"""

from __future__ import annotations

import difflib
import re
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, NamedTuple

from buildkit.contract import GIT_REF, GIT_SHA
from buildkit.errors import LocalError, SettingError
from buildkit.files import read_bounded
from buildkit.stages import parse_stages
from buildkit.template import quote_value

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

    from e2b_dockerfile_utils import DockerfileInstruction

    from buildkit.stages import Stages
    from buildkit.ui import Ui

IMAGES = ("BASE_IMAGE", "BUILDER_IMAGE")  # ARGs that are settings of the same name
_MAX_BYTES = 4_000_000
_LINE = re.compile(r"[^\n]*\n|[^\n]+")
_SYNTAX = re.compile(r"\ufeff?(?:\s*#\s*(?:check|escape)\s*=.*\n)*\s*#\s*syntax\s*=\s*(\S+)", re.IGNORECASE)
_FROM_ELSEWHERE = re.compile(r"(?:^--|^--mount=|,)from=|^--mount=(?:.*,)?type=(?!bind)")
_MOUNTED = re.compile(r"(?:^--mount=|,)(?:source|src)=([^,]+)")
_NOT_A_PATH = re.compile(r"<<|git@|[A-Za-z][A-Za-z0-9+.-]*://|.*[$'\"]", re.DOTALL)


class DerivedDockerfile(NamedTuple):
    """The text, and the image that the target is built on."""

    text: str
    base_image: str


def derive_dockerfile(text: str, name: str, target: str | None, values: Mapping[str, str], ui: Ui) -> DerivedDockerfile:
    """Return the Dockerfile that builds `target` for a builder that is given neither a target nor build arguments.

    Args:
        name: What messages call it.
        target: One of its stages, or None for the last one.
        values: By the name of the ARG. Each must be declared, except for `GIT_SHA` and `GIT_REF`.

    Raises:
        SettingError: A value has no ARG, or `target` is not a stage.
        LocalError: The text is not a Dockerfile, or the target needs a stage that comes after it.
    """
    parsed = parse_stages(text, name, values)
    _check_declared(parsed, name, values)
    last = _find_target(parsed, name, target)
    needed, images = parsed.find_needed(last)
    if later := [image for image in images if parsed.find(image, len(parsed.stages))]:
        raise LocalError(f"{name} uses stages above their FROM: {', '.join(later)}", "move these stages further up")
    root, syntax = parsed.find_root(last), _SYNTAX.match(text)
    images = [*(syntax.groups() if syntax else ()), *(image for image in images if image not in {root, "scratch"})]
    if images:
        ui.warn(f"{name} makes the builder pull more images: {', '.join(images)}")
    if unused := sorted(values.keys() - parsed.list_arguments(needed)):
        ui.warn(f"{name} has no ARG for these values in the stages that the target needs: {', '.join(unused)}")
    return DerivedDockerfile(_write(text, parsed, last, values), root)


def check_dockerfile(source: Path, path: str, target: str | None, values: Mapping[str, str]) -> None:
    """Refuse a Dockerfile of the source that cannot be read, has no such stage, or has no ARG for a value.

    Raises:
        SettingError, LocalError: It is one of these.
    """
    parsed = parse_stages(read_dockerfile(source, path), path, values)
    _check_declared(parsed, path, values)
    _find_target(parsed, path, target)


def read_dockerfile(source: Path, path: str) -> str:
    """Return the text of the Dockerfile at `path` in the source, with its line ends.

    Raises:
        SettingError: `path` leads out of the source.
        LocalError: It cannot be read, or is not UTF-8 text.
    """
    file = source / path
    if not file.resolve().is_relative_to(source.resolve()):
        raise SettingError(
            f"DOCKERFILE is outside the source directory: {path!r}", "set DOCKERFILE to a path below SOURCE_DIR"
        )
    try:
        return read_bounded(file, _MAX_BYTES, follow=True).decode("utf-8")
    except OSError as error:
        raise LocalError(
            f"DOCKERFILE names {path!r}, which cannot be read: {error.strerror or error}",
            "set DOCKERFILE to a file below SOURCE_DIR, or unset it to use the built-in one",
        ) from error
    except UnicodeDecodeError as error:
        raise LocalError(f"DOCKERFILE names {path!r}, which is not UTF-8 text: {error}", "save it as UTF-8") from error


def find_unpacked(text: str, files: Iterable[str]) -> list[str]:
    """Return the paths that a Dockerfile copies or mounts and that are not among the packed `files`.

    Paths with variables or quotes are left out: only the build shows what they mean.
    """
    packed = {""}
    for file in files:
        path = file
        while path not in packed:
            packed.add(path)
            path = path.rpartition("/")[0]
    instructions = (item for stage in parse_stages(text, "Dockerfile", {}).stages for item in stage.instructions)
    paths = dict.fromkeys(path for item in instructions for path in _list_sources(item))
    return [path for path in paths if not _NOT_A_PATH.match(path) and not _is_packed(path, packed)]


def _check_declared(parsed: Stages, name: str, values: Mapping[str, str]) -> None:
    """Refuse a value that no ARG takes: whoever set it would believe that it had an effect."""
    declared = parsed.list_arguments(range(len(parsed.stages)))
    for argument in sorted(values.keys() - declared - {GIT_SHA, GIT_REF}):
        near = difflib.get_close_matches(argument, declared, 3, 0.5)
        known = f"did you mean {', '.join(near)}?" if near else f"it has {', '.join(sorted(declared)) or 'none'}"
        setting = argument if argument in IMAGES else f"{argument} in BUILD_ARGS"
        raise SettingError(f"{name} has no ARG {argument}", f"unset {setting}, or declare it; {known}")


def _find_target(parsed: Stages, name: str, target: str | None) -> int:
    names = [stage.name.lower() for stage in parsed.stages]
    if target is None:
        return len(names) - 1
    if target.lower() not in names:
        known = ", ".join(dict.fromkeys(stage.name for stage in parsed.stages if stage.name)) or "none has a name"
        raise SettingError(
            f"TARGET {target!r} is not a stage of {name}; its stages: {known}",
            f"set TARGET to one of them, or write `AS {target}` after the image in the stage's FROM",
        )
    return len(names) - 1 - names[::-1].index(target.lower())


def _write(text: str, parsed: Stages, last: int, values: Mapping[str, str]) -> str:
    """Return the text up to the end of stage `last`, with `values` as the defaults of its ARGs."""
    lines = _LINE.findall(text)
    if last + 1 < len(parsed.stages):
        del lines[parsed.stages[last].instructions[-1].end_line :]
    # In a stage, an ARG without a default takes the value from above the stages, if it is declared there.
    above, nothing = parsed.list_arguments(()), set[str]()
    items = [(item, nothing) for item in parsed.preamble]
    items += [(item, above) for stage in parsed.stages[: last + 1] for item in stage.instructions]
    for item, inherited in reversed([pair for pair in items if pair[0].name == "ARG"]):
        words = [_fill(word, values, inherited, parsed.escape) for word in item.args]
        if words != item.args:
            line_end = re.sub(r".*[^\r\n]", "", lines[item.end_line - 1])
            lines[item.start_line - 1 : item.end_line] = [f"ARG {' '.join(words)}{line_end}"]
    return "".join(lines)


def _fill(word: str, values: Mapping[str, str], inherited: set[str], escape: str) -> str:
    """Return a word of an ARG with its value as the default, unless it inherits that."""
    name, equals, _ = word.partition("=")
    takes_value = name in values and (equals or name not in inherited)
    return f"{name}={quote_value(values[name], escape)}" if takes_value else word


def _list_sources(item: DockerfileInstruction) -> Iterator[str]:
    """Yield what an instruction takes from the build context."""
    local = [flag for flag in item.flags if not _FROM_ELSEWHERE.search(flag)]
    if item.name == "RUN":
        yield from (path for flag in local if flag.startswith("--mount=") for path in _MOUNTED.findall(flag))
    elif item.name in {"ADD", "COPY"} and local == item.flags:
        yield from item.args[:-1]


def _is_packed(path: str, packed: set[str]) -> bool:
    plain = "/".join(part for part in path.split("/") if part not in {"", "."})
    if not re.search(r"[*?\[]", plain):
        return plain in packed
    depth = plain.count("/")  # with as many slashes on both sides, no wildcard can match one
    return any(name.count("/") == depth and fnmatchcase(name, plain) for name in packed)
