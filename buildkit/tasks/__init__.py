"""The tasks, one module each; `make_collection` brings them into another project's `tasks.py`.

from buildkit.tasks import make_collection
ns = make_collection(__file__, SOURCE_DIR="server")
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from invoke.collection import Collection


def make_collection(tasks_file: str | None = None, **defaults: str | float) -> Collection:
    """Return the tasks for a project.

    Args:
        tasks_file: The project's own `tasks.py` (`__file__`): its folder is where `.env` is and relative paths start.
            Without it, that is the checkout around the working directory.
        defaults: This project's own defaults for settings, by variable name.
    """
    from buildkit import cli

    return cli.make_collection(tasks_file, defaults)
