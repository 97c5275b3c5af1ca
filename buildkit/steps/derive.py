"""A standalone Dockerfile from the source's own: values filled in, only the stages that the target needs."""

from __future__ import annotations

import difflib
import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from buildkit.errors import LocalError, SettingError
from buildkit.reference import parse_reference
from buildkit.regular import read_regular
from buildkit.rendering.arguments import check_argument, check_text
from buildkit.rendering.instructions import quote_value
from buildkit.rendering.stages import Edit, find_needed, find_root_image, keep_stages, read_arguments, read_stages

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from pathlib import Path

    from buildkit.rendering.instructions import Instruction
    from buildkit.rendering.stages import Stage, StagedText

_SHA = "OPENHANDS_BUILD_GIT_SHA"
_REF = "OPENHANDS_BUILD_GIT_REF"
_BASE = "BASE_IMAGE"


@dataclass(frozen=True)
class DerivedDockerfile:
    """The text, its digest (sha256, hex), and the image that the target stands on."""

    text: str
    dockerfile_sha256: str
    base_image: str


def read_own_dockerfile(source: Path, path: str) -> str:
    """Return the text of the Dockerfile at `path` in the source, line ends as they are.

    Raises:
        SettingError: `path` leads out of the source.
        LocalError: There is no such file, or it is not UTF-8 text.
    """
    file = source / path
    if not file.resolve().is_relative_to(source.resolve()):
        raise SettingError(
            f"DOCKERFILE is outside the source directory: {path!r}", "set DOCKERFILE to a path below SOURCE_DIR"
        )
    try:
        return read_regular(file).decode("utf-8")
    except OSError as error:
        raise LocalError(
            f"DOCKERFILE names {path!r}, which cannot be read: {error.strerror or error}",
            "set DOCKERFILE to a file below SOURCE_DIR, or unset it for the built-in one",
        ) from error
    except UnicodeDecodeError as error:
        raise LocalError(f"DOCKERFILE names {path!r}, which is not UTF-8 text: {error}", "save it as UTF-8") from error


def derive_dockerfile(
    text: str,
    *,
    source_name: str,
    target: str,
    base_image: str | None,
    build_args: Mapping[str, str],
    sha: str,
    git_ref: str,
    warn: Callable[[str], None],
) -> DerivedDockerfile:
    """Return the Dockerfile that builds `target` where no target and no build argument can be given.

    Defaults of ARGs become the values given; stages that the target does not need are left out, so that it is the last.
    Every other line stays as it is. Deriving again from the result changes nothing.

    Args:
        source_name: What to call the file: its path in the source.
        base_image: None where the file's own default stands.
        warn: Told which images besides the base are pulled, and which values the target makes no use of.

    Raises:
        SettingError: A value cannot stand in a Dockerfile, no ARG takes it, or `target` is not a stage.
        LocalError: The text is not a Dockerfile.
    """
    baked = _collect_values(base_image, build_args, sha, git_ref)
    staged = read_stages(text)
    _check_declared(staged, {**build_args, **({_BASE: base_image} if base_image else {})}, source_name)
    stage = _find_target(staged, target, source_name)
    values = read_arguments(staged, baked)
    kept, images = find_needed(staged, stage, values)
    edits = [edit for item in _list_arguments(staged, kept) for edit in _bake(staged, item, baked)]
    root = find_root_image(staged, stage, values)
    syntax = [staged.directives["syntax"]] if "syntax" in staged.directives else []
    if further := [*syntax, *(image for image in images if image != root)]:
        warn(f"{source_name} has the builder pull further images: {', '.join(further)}")
    used = {name for item in _list_arguments(staged, kept) for name in _read_names(item)}
    if unused := sorted(baked.keys() - used):
        warn(f"without effect on target {target!r}, for {source_name} has no ARG there: {', '.join(unused)}")
    derived = keep_stages(staged, kept, edits)
    return DerivedDockerfile(derived, hashlib.sha256(derived.encode()).hexdigest(), root)


def _collect_values(base_image: str | None, build_args: Mapping[str, str], sha: str, git_ref: str) -> dict[str, str]:
    """Return what is filled in, by the ARG's name; checked."""
    for name, value in build_args.items():
        check_argument(name, value)
    check_text("GIT_SHA", sha)
    check_text("GIT_REF", git_ref)
    if base_image is not None:
        parse_reference(base_image, _BASE)
    return {**build_args, _SHA: sha, _REF: git_ref, **({_BASE: base_image} if base_image else {})}


def _check_declared(staged: StagedText, given: Iterable[str], source_name: str) -> None:
    """Refuse a value that the file takes nowhere: whoever set it would believe that it had an effect."""
    declared = {name for item in _list_arguments(staged, staged.stages) for name in _read_names(item)}
    for name in given:
        if name not in declared:
            near = difflib.get_close_matches(name, declared, 3, 0.5)
            setting = name if name == _BASE else f"{name} in BUILD_ARGS"
            known = f"did you mean {', '.join(near)}?" if near else f"it has {', '.join(sorted(declared)) or 'none'}"
            raise SettingError(f"{source_name} has no ARG {name}", f"unset {setting}, or declare it; {known}")


def _find_target(staged: StagedText, target: str, source_name: str) -> Stage:
    found = [stage for stage in staged.stages if stage.name and stage.name.lower() == target.lower()]
    if not found:
        names = ", ".join(dict.fromkeys(stage.name for stage in staged.stages if stage.name))
        raise SettingError(
            f"TARGET {target!r} is not a stage of {source_name}; its stages: {names or 'none has a name'}",
            f"set TARGET to one of them, or write `AS {target}` behind the FROM of the stage that is meant",
        )
    return found[-1]


def _list_arguments(staged: StagedText, stages: Iterable[Stage]) -> Iterator[Instruction]:
    for instructions in (staged.preamble, *(stage.instructions for stage in stages)):
        yield from (item for item in instructions if item.keyword == "ARG" and not item.trigger)


def _read_names(instruction: Instruction) -> Iterator[str]:
    return (word.text.partition("=")[0] for word in instruction.words)


def _bake(staged: StagedText, instruction: Instruction, baked: Mapping[str, str]) -> Iterator[Edit]:
    """Yield what to write for the words of an ARG; one without a default takes it from above the stages, if it can."""
    above = {name for item in _list_arguments(staged, ()) for name in _read_names(item)}
    for word in instruction.words:
        name, equals, _ = word.text.partition("=")
        if name in baked and (equals or instruction in staged.preamble or name not in above):
            yield Edit(word.start, word.end, f"{name}={quote_value(baked[name], staged.escape)}")
