"""From the command line to a task and back: flags from the settings table, `--json`, exit codes."""

from __future__ import annotations

import dataclasses
import inspect
import json
import os
import sys
import traceback
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from invoke.collection import Collection
from invoke.exceptions import ParseError
from invoke.program import Program
from invoke.tasks import Task as InvokeTask

from buildkit import values
from buildkit.errors import PROGRAM, LocalError, RuntimeBuildError, SettingError, run
from buildkit.models import StepResult
from buildkit.precedence import find_root, load_settings
from buildkit.settings import Settings, hide_from_children, read_ci, read_environment
from buildkit.signals import Interrupted, raise_on_signal
from buildkit.state import SCHEMA, format_state
from buildkit.task import TASKS, Flag, Outcome, Run, Task
from buildkit.ui import Ui, escape_what_the_streams_lack, flush_streams

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from invoke.context import Context

    from buildkit.task import Given

    Field = dataclasses.Field[Any]

INTERNAL_ERROR = 70  # EX_SOFTWARE of sysexits.h
_CONFIG = "runtime_build"
_JSON = Flag("json", "print the step's state file instead, and errors as JSON too")


class _Program(Program):
    """invoke's own program, except that a misspelt command line exits with 2, as all invalid usage does."""

    def parse_tasks(self) -> None:
        try:
            super().parse_tasks()
        except ParseError as error:
            fix = f"{run('--list')} shows the tasks, {run('--help TASK')} the flags of one"
            ui = Ui(annotates=read_ci(read_environment()).annotates)
            ui.fail(str(error), fix, SettingError.exit_code, as_json="--json" in sys.argv)
            sys.exit(SettingError.exit_code)

    def print_version(self) -> None:
        from importlib.metadata import version  # looking it up takes time

        self.version = version(PROGRAM)
        super().print_version()


def start() -> None:
    """Run the command line of `runtime-build`."""
    escape_what_the_streams_lack()
    collection = make_collection(None, {}, program=PROGRAM)
    try:
        _Program(name=PROGRAM, binary=PROGRAM, namespace=collection).run()
    except BrokenPipeError:
        pass  # `--list` into a closed pipe
    finally:
        flush_streams()


def make_collection(tasks_file: str | None, defaults: Mapping[str, Any], *, program: str = "invoke") -> Collection:
    """Return the tasks for a project; see `buildkit.tasks.make_collection`.

    Args:
        program: How the user starts the tasks; suggested commands are spelled that way.
    """
    collection = Collection(*(make_task(import_module(f"buildkit.tasks.{name}").TASK) for name in TASKS))
    own: dict[str, Any] = {"defaults": dict(defaults), "program": program}
    if tasks_file is not None:
        own["root"] = str(Path(tasks_file).resolve().parent)
    collection.configure({_CONFIG: own})
    return collection


def make_task(task: Task) -> InvokeTask[Any]:
    """Return the invoke task that runs `task` with its flags."""
    fields = [item for item in dataclasses.fields(Settings) if item.metadata["group"] in {"everywhere", *task.groups}]
    flags = [*(flag for item in fields for flag in _list_flags(item)), *task.flags, _JSON]

    def execute(c: Context, **given: Given) -> None:
        if code := _execute(task, fields, given, dict(c.config.get(_CONFIG, {}))):
            raise SystemExit(code)

    execute.__doc__ = task.run.__doc__
    vars(execute)["__signature__"] = _make_signature(flags)
    help_texts = {flag.name.replace("_", "-"): flag.meaning for flag in flags}
    optional = [flag.name for flag in flags if flag.is_optional]
    return InvokeTask(execute, name=task.name, auto_shortflags=False, help=help_texts, optional=optional)


def _make_signature(flags: Sequence[Flag]) -> inspect.Signature:
    """Return the signature from which invoke reads the flags of a task."""
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    read = [inspect.Parameter(flag.name, kind, default=flag.default) for flag in flags]
    return inspect.Signature([inspect.Parameter("c", kind), *read])


def _execute(task: Task, fields: Sequence[Field], given: Mapping[str, Given], own: Mapping[str, Any]) -> int:
    """Return the exit code of a task: the one place where errors become two lines and a code."""
    sys.dont_write_bytecode = bool(sys.flags.dont_write_bytecode)  # invoke sets it, so that `tasks.py` leaves no trace
    as_json = bool(given["json"])
    ui = Ui(program=own.get("program", PROGRAM), annotates=read_ci(read_environment()).annotates)
    try:
        with raise_on_signal():
            this = _open_run(fields, given, own)
            ui = this.ui
            this.flags = {flag.name: flag.read(given[flag.name]) for flag in task.flags}
            with hide_from_children(this.settings.runtime_api_key):
                outcome = task.run(this)
            if as_json:
                ui.show(_format_json(outcome))
            elif isinstance(outcome.text, str):
                ui.show(outcome.text)
            else:
                ui.show_lines(outcome.text)
            return outcome.exit_code
    except (RuntimeBuildError, Interrupted) as error:
        message = error.message if isinstance(error, RuntimeBuildError) else "interrupted"
        return _fail(ui, message, error.fix, error.exit_code, as_json)
    except OSError as error:
        message = f"{error.strerror or error}: {error.filename or ''}".rstrip(": ")
        return _fail(ui, message, "fix it and run again", LocalError.exit_code, as_json)
    except Exception as error:  # noqa: BLE001 - a defect of ours: users get two lines, never a traceback
        frame = traceback.extract_tb(error.__traceback__)[-1]
        message = f"internal error: {type(error).__name__}: {error} ({Path(frame.filename).name}, line {frame.lineno})"
        fix = f"report it to the maintainers of {PROGRAM}, with this line and the output of {run('doctor')}"
        return _fail(ui, message, fix, INTERNAL_ERROR, as_json)


def _fail(ui: Ui, message: str, fix: str, code: int, as_json: bool) -> int:
    ui.fail(message, fix, code, as_json=as_json)
    return code


def _open_run(fields: Sequence[Field], given: Mapping[str, Given], own: Mapping[str, Any]) -> Run:
    """Return the run of a task, with every setting checked."""
    _refuse_system()
    environment = read_environment()
    root = Path(own["root"]) if "root" in own else find_root(Path.cwd())
    typed = {item.name.upper(): text for item in fields if (text := _read_flag(item, given))}
    is_server = any(item.metadata["group"] == "serve" for item in fields)
    loaded = load_settings(typed, environment, root, own.get("defaults", {}), is_server=is_server)
    ci = read_ci(environment)
    key = loaded.settings.runtime_api_key
    ui = Ui(program=own.get("program", PROGRAM), github_output=ci.output, annotates=ci.annotates, key=key)
    for warning in loaded.warnings:
        ui.warn(warning)
    return Run(loaded, root, ci, ui)


def _refuse_system() -> None:
    """Refuse a system that cannot open files relative to a folder: there, a link could lead anywhere."""
    if os.open not in os.supports_dir_fd:
        raise LocalError(f"{PROGRAM} does not run on {sys.platform}", "use Linux, WSL 2 or a container")


def _list_flags(item: Field) -> list[Flag]:
    """Return the flag of a setting; two for a switch, so that either can override the environment."""
    meaning = item.metadata["meaning"]
    if not _is_switch(item):
        return [Flag(item.name, meaning, takes_value=True)]
    return [Flag(item.name, meaning), Flag(f"no_{item.name}", f"{item.name.upper()}=false")]


def _read_flag(item: Field, given: Mapping[str, Given]) -> str | None:
    """Return what was typed for a setting, as text."""
    if not _is_switch(item):
        text = given[item.name]
        return text if isinstance(text, str) else None
    if given[item.name] and given[f"no_{item.name}"]:
        flag = item.name.replace("_", "-")
        raise SettingError(f"--{flag} and --no-{flag} were both given", "give one of them")
    return "true" if given[item.name] else "false" if given[f"no_{item.name}"] else None


def _is_switch(item: Field) -> bool:
    return item.metadata["parse"] is values.parse_flag


def _format_json(outcome: Outcome) -> str:
    """Return the JSON for programs: a step's state file, or the record of a task that has none."""
    if isinstance(outcome.record, StepResult):
        return format_state(outcome.record).rstrip()
    return json.dumps({"schema": SCHEMA, **outcome.record}, indent=2, default=list)
