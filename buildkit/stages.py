"""The stages of a Dockerfile, and what each of them is built from."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

from buildkit.errors import LocalError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from e2b_dockerfile_utils import DockerfileAst, DockerfileInstruction

_FROM = re.compile(r"(?:^--|^--mount=|,)from=([^,]+)")
_VARIABLE = re.compile(r"\$(?:\w+|\{[^}]*\})")
# Only the builder knows these values, so they stay variables.
_PLATFORM = {
    f"{side}{part}": f"${side}{part}" for side in ("TARGET", "BUILD") for part in ("PLATFORM", "OS", "ARCH", "VARIANT")
}


class Stage(NamedTuple):
    """One stage: its name (empty if it has none), the image or stage in its FROM, and its instructions."""

    name: str
    base: str
    instructions: Sequence[DockerfileInstruction]


class Stages(NamedTuple):
    """A Dockerfile: the instructions above its stages, the values of their ARGs, and the stages in order."""

    escape: str
    preamble: Sequence[DockerfileInstruction]
    values: dict[str, str]
    stages: list[Stage]

    def expand(self, text: str) -> str:
        """Return `text` without quotes and with variables replaced, except for those that only the builder knows."""
        from e2b_dockerfile_utils import ShellLex

        return ShellLex(self.escape, env=_PLATFORM | self.values, skip_unset_env=False).process_word(text)

    def find(self, reference: str, before: int) -> list[int]:
        """Return the numbers, below `before`, of the stages that a reference means; several if it has a variable."""
        if reference.isdecimal() and int(reference) < before:
            return [int(reference)]
        pattern = re.compile(".*".join(map(re.escape, _VARIABLE.split(reference))), re.IGNORECASE)
        found = [number for number in range(before) if pattern.fullmatch(self.stages[number].name or "\0")]
        return found if "$" in reference else found[-1:]

    def find_root(self, number: int) -> str:
        """Return the image that a stage is built on, directly or through other stages."""
        roots: list[str] = []
        for current, stage in enumerate(self.stages[: number + 1]):
            below = {roots[found] for found in self.find(stage.base, current)}
            roots.append(below.pop() if len(below) == 1 else stage.base)
        return roots[number]

    def find_needed(self, last: int) -> tuple[set[int], list[str]]:
        """Return the numbers of the stages that a stage needs, itself included, and the images that they use."""
        needed, images = {last}, list[str]()
        for number in range(last, -1, -1):
            if number in needed:
                found = {reference: self.find(reference, number) for reference in self._list_references(number)}
                needed.update(*found.values())
                images[:0] = [reference for reference, stages in found.items() if not stages]
        return needed, list(dict.fromkeys(images))

    def list_arguments(self, numbers: Iterable[int]) -> set[str]:
        """Return the names of the ARGs above the stages and in these ones."""
        below = [item for number in numbers for item in self.stages[number].instructions]
        return {word.partition("=")[0] for item in (*self.preamble, *below) if item.name == "ARG" for word in item.args}

    def _list_references(self, number: int) -> list[str]:
        stage = self.stages[number]
        flags = (flag for item in stage.instructions if item.name in {"ADD", "COPY", "RUN"} for flag in item.flags)
        return [stage.base, *(name for flag in flags for name in _FROM.findall(flag))]


def parse_stages(text: str, name: str, arguments: Mapping[str, str]) -> Stages:
    """Return the stages of a Dockerfile.

    Args:
        name: What messages call it.
        arguments: Values that replace the defaults of the ARGs above the stages.

    Raises:
        LocalError: It is not a Dockerfile, or has something that builders read in different ways.
    """
    from e2b_dockerfile_utils import parse_dockerfile_ast

    try:
        return _group(parse_dockerfile_ast(text), arguments)
    except ValueError as error:
        reason = str(error).removeprefix("Dockerfile parse error on ")
        raise LocalError(f"{name} cannot be read: {reason}", "correct it, or unset DOCKERFILE") from error


def _group(tree: DockerfileAst, arguments: Mapping[str, str]) -> Stages:
    """Return the instructions by stage."""
    starts = [number for number, item in enumerate(tree.instructions) if item.name == "FROM"]
    if not starts:
        raise ValueError("there is no FROM")
    if any(item.name == "ONBUILD" and "<<" in item.original for item in tree.instructions):
        raise ValueError("a heredoc in ONBUILD is not supported")
    found = Stages(tree.escape_token, tree.instructions[: starts[0]], {}, [])
    for word in (word for item in found.preamble if item.name == "ARG" for word in item.args):
        argument, equals, default = word.partition("=")
        if argument in arguments:
            found.values[argument] = arguments[argument]
        elif equals or argument not in _PLATFORM:
            found.values[argument] = found.expand(default)
    for start, end in zip(starts, [*starts[1:], len(tree.instructions)], strict=True):
        words = tree.instructions[start].args
        if len(words) != 1 and [word.upper() for word in words[1:-1]] != ["AS"]:
            raise ValueError(f"line {tree.instructions[start].start_line}: FROM takes an image, or an image AS a name")
        names = found.expand(" ".join(words[2:])), found.expand(words[0])
        found.stages.append(Stage(*names, tree.instructions[start:end]))
    return found
