"""What a Dockerfile takes from the build context, and what of that the context will not hold."""

from __future__ import annotations

import re
from bisect import bisect_left
from typing import TYPE_CHECKING

from buildkit.rendering.instructions import read_json_list, remove_quotes
from buildkit.rendering.stages import read_stages

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from buildkit.rendering.instructions import Instruction

_FROM_ELSEWHERE = re.compile(r"(?:^--|^--mount=|,)from=")
_MOUNT_SOURCE = re.compile(r"(?:^--mount=|,)(?:source|src)=([^,]+)")
_MOUNT_TYPE = re.compile(r"(?:^--mount=|,)type=([^,]+)")
_NO_PATH = re.compile(r"<<|git@|[A-Za-z][A-Za-z0-9+.-]*://")
_GLOB = re.compile(r"[*?\[]")


def find_unpacked(text: str, files: Sequence[str]) -> list[str]:
    """Return the paths that a Dockerfile copies or mounts and that no packed file answers to, in its order.

    Paths with variables are passed over: what they mean shows in the build.

    Args:
        files: What is packed, sorted.

    Raises:
        LocalError: The text is not a Dockerfile.
    """
    staged = read_stages(text)
    instructions = (item for stage in staged.stages for item in stage.instructions if not item.trigger)
    paths = dict.fromkeys(path for item in instructions for path in _list_paths(item, staged.escape))
    return [path for path in paths if not _is_packed(path, files)]


def _list_paths(instruction: Instruction, escape: str) -> Iterator[str]:
    flags = [remove_quotes(word.text, escape) for word in instruction.flags]
    if instruction.keyword == "RUN":
        sources = [path for flag in flags for path in _list_mounted(flag)]
    elif instruction.keyword in {"ADD", "COPY"} and not any(map(_FROM_ELSEWHERE.search, flags)):
        plain = [remove_quotes(word.text, escape) for word in instruction.words]
        sources = (read_json_list(instruction.rest) or plain)[:-1]
    else:
        sources = []
    for source in sources:
        if "$" not in source and not _NO_PATH.match(source):
            yield source


def _list_mounted(flag: str) -> Iterator[str]:
    kind = _MOUNT_TYPE.search(flag)
    if flag.startswith("--mount=") and (kind is None or kind[1] == "bind") and not _FROM_ELSEWHERE.search(flag):
        yield from _MOUNT_SOURCE.findall(flag)


def _is_packed(path: str, files: Sequence[str]) -> bool:
    plain = "/".join(part for part in path.split("/") if part not in {"", "."})
    if not plain:
        return True
    if _GLOB.search(plain):
        pattern = re.compile(_translate(plain) + "(?:/.*)?", re.DOTALL)
        return any(map(pattern.fullmatch, files))
    folder = bisect_left(files, f"{plain}/")
    at = bisect_left(files, plain)
    return plain in files[at : at + 1] or any(file.startswith(f"{plain}/") for file in files[folder : folder + 1])


def _translate(glob: str) -> str:
    """Return the pattern that Go's `filepath.Match` stands for: no sign crosses a slash."""
    parts = re.split(r"(\*|\?|\[[^]]+\])", glob)
    known = {"*": "[^/]*", "?": "[^/]"}
    return "".join(known.get(part, part if part.startswith("[") else re.escape(part)) for part in parts)
