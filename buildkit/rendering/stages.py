"""The stages of a Dockerfile: what each is built from, and the text with only those that one of them needs."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from buildkit.errors import LocalError
from buildkit.rendering.instructions import Instruction, Word, is_directive, remove_quotes, scan_instructions

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

# Stands for what only the builder knows, such as its platform; no Dockerfile can hold it in a name.
UNKNOWN = "\0"
_VARIABLE = re.compile(r"\$(?:\{(\w+)(?:(:?[-+])([^{}]*))?\}|\{[^{}]*\}|(\w+))")
_KNOWN_TO_BUILDER = re.compile(r"(?:TARGET|BUILD)(?:PLATFORM|OS|OSVERSION|ARCH|VARIANT)")
_FROM = re.compile(r"(?:^--|^--mount=|,)from=([^,]+)")
_NUMBERED_FROM = re.compile(r"""((?:^--|^--mount=["']?|,)from=["']?)([0-9]+)(?=[,"']|\Z)""")


class Edit(NamedTuple):
    """A piece of the text and what stands there instead."""

    start: int
    end: int
    text: str


@dataclass(frozen=True)
class Stage:
    """One stage.

    Attributes:
        name: None where it has none.
        base: The word that says what it is built on, an image or another stage; quotes and variables still in it.
        start: Offset of the comments above its FROM; those above the first belong to what stands before all stages.
        instructions: FROM and what follows.
    """

    position: int
    name: str | None
    base: str
    start: int
    end: int
    instructions: tuple[Instruction, ...]


@dataclass(frozen=True)
class StagedText:
    """A Dockerfile: the instructions above all stages, then the stages."""

    text: str
    escape: str
    directives: dict[str, str]
    preamble: tuple[Instruction, ...]
    stages: tuple[Stage, ...]


def read_stages(text: str) -> StagedText:
    """Return the stages of a Dockerfile.

    Raises:
        LocalError: It has none, or a FROM without an image, or a heredoc without an end.
    """
    scanned = scan_instructions(text)
    starts = [n for n, item in enumerate(scanned.instructions) if item.keyword == "FROM" and not item.trigger]
    if not starts:
        raise LocalError("the Dockerfile has no FROM", "set DOCKERFILE to one that builds an image")
    offsets = [scanned.instructions[starts[0]].start]
    offsets += [scanned.instructions[start - 1].end for start in starts[1:]]
    stages = []
    for position, start in enumerate(starts):
        instructions = scanned.instructions[start : [*starts, None][position + 1]]
        words = [remove_quotes(word.text, scanned.escape) for word in instructions[0].words]
        if not words:
            raise LocalError(f"line {instructions[0].line} of the Dockerfile: FROM without an image", "name an image")
        name = words[2] if len(words) > 2 and words[1].upper() == "AS" else None  # noqa: PLR2004 - image AS name
        end = [*offsets, len(text)][position + 1]
        stages.append(Stage(position, name, instructions[0].words[0].text, offsets[position], end, instructions))
    preamble = scanned.instructions[: starts[0]]
    return StagedText(text, scanned.escape, scanned.directives, preamble, tuple(stages))


def read_arguments(staged: StagedText, baked: Mapping[str, str]) -> dict[str, str]:
    """Return the values of the ARGs above all stages, `baked` ones before defaults."""
    values: dict[str, str] = {}
    for word in (word for item in staged.preamble if item.keyword == "ARG" for word in item.words):
        name, equals, default = word.text.partition("=")
        if name in baked:
            values[name] = baked[name].replace("$", UNKNOWN)
        elif equals or not _KNOWN_TO_BUILDER.fullmatch(name):
            values[name] = expand_variables(remove_quotes(default, staged.escape), values)
    return values


def expand_variables(text: str, values: Mapping[str, str]) -> str:
    """Return `text` with its variables replaced: by `UNKNOWN` where only the builder has the value."""
    while match := _VARIABLE.search(text):
        text = text[: match.start()] + _expand(match, values) + text[match.end() :]
    return text.replace("$", UNKNOWN)


def find_needed(staged: StagedText, target: Stage, values: Mapping[str, str]) -> tuple[list[Stage], list[str]]:
    """Return the stages that `target` needs, itself last, and the images that they take from elsewhere."""
    needed = {target.position}
    for stage in reversed(staged.stages[: target.position + 1]):
        if stage.position in needed:
            for reference in _list_references(stage, staged.escape, values):
                needed.update(found.position for found in _find_earlier(staged, stage, reference))
    kept = [stage for stage in staged.stages if stage.position in needed]
    images = [
        reference.replace(UNKNOWN, "…")
        for stage in kept
        for reference in _list_references(stage, staged.escape, values)
        if not _find_earlier(staged, stage, reference)
    ]
    return kept, [image for image in dict.fromkeys(images) if image != "scratch"]


def find_root_image(staged: StagedText, stage: Stage, values: Mapping[str, str]) -> str:
    """Return the image that the stage and those below it stand on; as it is written where only the builder knows it."""
    base = expand_variables(remove_quotes(stage.base, staged.escape), values)
    below = _find_earlier(staged, stage, base)
    roots = {find_root_image(staged, found, values) for found in (below if UNKNOWN in base else below[-1:])}
    if len(roots) == 1:
        return roots.pop()
    return stage.base if UNKNOWN in base else base


def keep_stages(staged: StagedText, kept: Iterable[Stage], edits: Iterable[Edit]) -> str:
    """Return the text with `edits` in it and only the stages in `kept`; numbers of stages count these."""
    ranks = {stage.position: rank for rank, stage in enumerate(kept)}
    dropped = [Edit(stage.start, stage.end, "") for stage in staged.stages if stage.position not in ranks]
    numbers = [edit for stage in staged.stages if stage.position in ranks for edit in _renumber(stage, ranks)]
    text = _apply_edits(staged.text, [*edits, *dropped, *numbers])
    top = staged.stages[0].start
    only_directives = all(map(is_directive, staged.text[:top].splitlines()))
    if 0 not in ranks and only_directives and is_directive(text[top:].partition("\n")[0]):
        return f"{text[:top]}\n{text[top:]}"  # what was a comment in the middle must not become a directive
    return text


def _expand(match: re.Match[str], values: Mapping[str, str]) -> str:
    name, operator, word = match[1] or match[4], match[2], match[3]
    if name is None or (name not in values and _KNOWN_TO_BUILDER.fullmatch(name)):
        return UNKNOWN
    value = values.get(name, "")
    is_set = bool(value) if operator and operator[0] == ":" else name in values
    if operator and operator[-1] == "-":
        return value if is_set else word
    if operator:
        return word if is_set else ""
    return value


def _list_references(stage: Stage, escape: str, values: Mapping[str, str]) -> Iterator[str]:
    """Yield what a stage is built on and what it copies or mounts from, numbers of stages included."""
    yield expand_variables(remove_quotes(stage.base, escape), values)
    for word in _list_sources(stage):
        for name in _FROM.findall(remove_quotes(word.text, escape)):
            # No builder but kaniko and buildah fills variables in here; which they are depends on the stage.
            yield _VARIABLE.sub(UNKNOWN, name)


def _list_sources(stage: Stage) -> Iterator[Word]:
    for instruction in stage.instructions:
        flag = "--mount=" if instruction.keyword == "RUN" else "--from="
        if instruction.keyword in {"ADD", "COPY", "RUN"}:
            yield from (word for word in instruction.flags if word.text.startswith(flag))


def _find_earlier(staged: StagedText, stage: Stage, reference: str) -> list[Stage]:
    """Return the stages above that `reference` means: more than one where names are given twice or not all is known."""
    earlier = staged.stages[: stage.position]
    if reference.isdecimal() and int(reference) < len(earlier):
        return [earlier[int(reference)]]
    pattern = re.compile(".*".join(map(re.escape, reference.split(UNKNOWN))), re.IGNORECASE)
    return [found for found in earlier if found.name and pattern.fullmatch(found.name)]


def _renumber(stage: Stage, ranks: Mapping[int, int]) -> Iterator[Edit]:
    def rank(match: re.Match[str]) -> str:
        number = int(match[2])
        return f"{match[1]}{ranks[number] if number < stage.position else number}"

    for word in _list_sources(stage):
        if (text := _NUMBERED_FROM.sub(rank, word.text)) != word.text:
            yield Edit(word.start, word.end, text)


def _apply_edits(text: str, edits: Iterable[Edit]) -> str:
    parts = []
    at = 0
    for edit in sorted(edits):
        parts += [text[at : edit.start], edit.text]
        at = edit.end
    return "".join([*parts, text[at:]])
