"""Files of ours that are packed with the source: the Dockerfile, the instructions, the programs of the build."""

from __future__ import annotations

from typing import TYPE_CHECKING

from buildkit.errors import LocalError, run
from buildkit.models import PROGRAMS
from buildkit.workspace import DOCKERFILE, INSTRUCTIONS

if TYPE_CHECKING:
    from buildkit.workspace import Workspace

GENERATED_FOLDER = ".runtime-build"


def find_programs(dockerfile: str) -> list[str]:
    """Return the names of our programs that a Dockerfile copies."""
    return [name for name in PROGRAMS if f"{GENERATED_FOLDER}/{name}" in dockerfile]


def read_generated(workspace: Workspace) -> dict[str, bytes]:
    """Return the contents of the generated files in the workspace, by the path that each is packed under."""
    try:
        generated = {name: workspace.read(name) for name in (DOCKERFILE, INSTRUCTIONS)}
        for name in find_programs(generated[DOCKERFILE].decode("utf-8", "replace")):
            generated[f"{GENERATED_FOLDER}/{name}"] = workspace.read(name)
    except OSError as error:
        raise LocalError(
            f"a generated file cannot be read: {error.filename}: {error.strerror}", f"run {run('dockerfile')} again"
        ) from error
    return generated
