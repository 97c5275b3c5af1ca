"""The program behind `runtime-build`: invoke's own, with our tasks and our way to refuse a command line."""

from __future__ import annotations

import sys

from invoke.exceptions import ParseError
from invoke.program import Program

from buildkit.console import Console, settle_streams
from buildkit.errors import SettingError
from buildkit.tasks import make_collection


class _Program(Program):
    """invoke's own program, except that a misspelt command line is exit 2 here, as bad usage is everywhere."""

    def parse_tasks(self) -> None:
        try:
            super().parse_tasks()
        except ParseError as error:
            fix = "`runtime-build --list` shows the tasks, `runtime-build --help TASK` the flags of one"
            Console().fail(SettingError(str(error), fix), as_json="--json" in sys.argv)
            sys.exit(SettingError.exit_code)

    def print_version(self) -> None:
        from importlib.metadata import version  # looking it up takes time

        self.version = version("runtime-build")
        super().print_version()


def run() -> None:
    """Run what was typed."""
    try:
        _Program(name="runtime-build", binary="runtime-build", namespace=make_collection()).run()
    except BrokenPipeError:
        pass  # `--list` into a reader that has seen enough
    finally:
        settle_streams()
