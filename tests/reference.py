"""The reference pages of the docs, `.env.example` and the JSON Schemas, as the code's own tables say them."""

from __future__ import annotations

import dataclasses
import inspect
import json
import types
import typing
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from buildkit import models
from buildkit.models import StepResult
from buildkit.settings import Settings
from buildkit.state import SCHEMA
from buildkit.task import TASKS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from buildkit.task import Task

ROOT = Path(__file__).parent.parent
# How a flag is written that takes no value, one, or perhaps one.
_VALUES = ("", "=…", "[=…]")
_EXAMPLE_HEADER = """\
# Copy this file to .env and change what you need. Lines that stay commented out show the default.
# Flags and environment variables take precedence over .env.
"""
# Between these lines of a page; the rest of it is written by hand.
MARKS = ("<!-- from the code -->\n\n", "\n<!-- by hand -->\n")


def render_settings() -> str:
    """Return the table of all settings."""
    rows = ["| variable | default | meaning |\n|---|---|---|\n"]
    for item in dataclasses.fields(Settings):
        default = f"`{item.metadata['default']}`" if item.metadata["default"] else "empty"
        rows.append(f"| `{item.name.upper()}` | {default} | {item.metadata['meaning']} |\n")
    return "".join(rows)


def render_example() -> str:
    """Return `.env.example`, in which every setting is commented out."""
    rows = (
        f"\n# {item.metadata['meaning']}\n# {item.name.upper()}={item.metadata['default']}\n"
        for item in dataclasses.fields(Settings)
    )
    return "".join([_EXAMPLE_HEADER, *rows])


def render_tasks() -> str:
    """Return a section for each task: its own flags, and the settings that it takes as flags."""
    return "\n".join(_render_task(import_module(f"buildkit.tasks.{name}").TASK) for name in TASKS)


def render_schema(record: type[StepResult]) -> str:
    """Return the JSON Schema of a state file."""
    hints = typing.get_type_hints(record)
    names = [item.name for item in dataclasses.fields(record)]
    schema = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": f"{record.step}.json",
        "description": inspect.cleandoc(record.__doc__ or "").splitlines()[0],
        "type": "object",
        "properties": {"schema": {"const": SCHEMA}, **{name: _describe(hints[name]) for name in names}},
        "required": ["schema", *names],
        "additionalProperties": False,
    }
    return json.dumps(schema, indent=2) + "\n"


def list_records() -> list[type[StepResult]]:
    """Return the record of every state file."""
    found = [value for value in vars(models).values() if isinstance(value, type) and issubclass(value, StepResult)]
    return [record for record in found if record is not StepResult]


def render_all() -> Iterator[tuple[Path, str]]:
    """Yield each generated file and what it must contain."""
    for name, part in (("settings", render_settings()), ("tasks", render_tasks())):
        page = ROOT / f"docs/reference/{name}.md"
        before, _, rest = page.read_text("utf-8").partition(MARKS[0])
        after = rest.partition(MARKS[1])[2]
        yield page, before + MARKS[0] + part + MARKS[1] + after
    yield ROOT / ".env.example", render_example()
    for record in list_records():
        yield ROOT / f"buildkit/schemas/{record.step}.json", render_schema(record)


def _render_task(task: Task) -> str:
    said = inspect.cleandoc(task.run.__doc__ or "").splitlines()[0]
    flags = "".join(
        f"| `--{flag.name.replace('_', '-')}{_VALUES[(flag.default is None) + flag.is_optional]}` | {flag.meaning} |\n"
        for flag in task.flags
    )
    table = f"\n| flag | meaning |\n|---|---|\n{flags}" if flags else ""
    names = [item.name.upper() for item in dataclasses.fields(Settings) if item.metadata["group"] in task.groups]
    settings = f"\nSettings: {', '.join(f'`{name}`' for name in names)}.\n" if names else ""
    return f"## {task.name}\n\n{said}\n{table}{settings}"


def _describe(hint: Any) -> dict[str, Any]:
    """Return the schema of one type of a record's field."""
    arguments = typing.get_args(hint)
    if isinstance(hint, types.UnionType):
        return {"anyOf": [_describe(argument) for argument in arguments]}
    if typing.get_origin(hint) is list:
        return {"type": "array", "items": _describe(arguments[0])}
    if typing.get_origin(hint) is dict:
        return {"type": "object", "additionalProperties": _describe(arguments[1])}
    if dataclasses.is_dataclass(hint):
        hints = typing.get_type_hints(hint)
        return {
            "type": "object",
            "properties": {name: _describe(kind) for name, kind in hints.items()},
            "required": list(hints),
        }
    return {"type": {str: "string", int: "integer", bool: "boolean", float: "number", type(None): "null"}[hint]}
