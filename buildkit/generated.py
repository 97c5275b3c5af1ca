"""Files of ours that are packed with the source: the Dockerfile, the instructions, the programs of the build."""

from __future__ import annotations

from typing import TYPE_CHECKING

from buildkit.errors import LocalError, run
from buildkit.models import PROGRAMS
from buildkit.workspace import DOCKERFILE, INSTRUCTIONS, PROGRAM_FOLDER

if TYPE_CHECKING:
    from buildkit.workspace import Workspace

GENERATED_FOLDER = ".runtime-build"


def read_generated(workspace: Workspace) -> dict[str, bytes]:
    """Return the contents of the generated files in the workspace, by the path that each is packed under.

    Raises:
        LocalError: One is missing or cannot be read.
    """
    names = {DOCKERFILE: DOCKERFILE, INSTRUCTIONS: INSTRUCTIONS}
    for program in PROGRAMS:
        if workspace.exists(f"{PROGRAM_FOLDER}/{program}"):
            names[f"{GENERATED_FOLDER}/{program}"] = f"{PROGRAM_FOLDER}/{program}"
    try:
        return {path: workspace.read(name) for path, name in names.items()}
    except OSError as error:
        raise LocalError(
            f"a generated file cannot be read: {error.filename}: {error.strerror}", f"run {run('dockerfile')} again"
        ) from error
