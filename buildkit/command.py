"""How a function becomes an invoke task: flags from the table of settings, `--json`, errors as exit codes."""

from __future__ import annotations

import dataclasses
import inspect
import json
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from invoke.tasks import Task

from buildkit.config.settings import Settings
from buildkit.errors import SettingError
from buildkit.models import StepResult
from buildkit.output.state import SCHEMA, format_state
from buildkit.session import Session, ending_well, open_session

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from invoke.context import Context

CONFIG_KEY = "runtime_build"
_EVERY_TASK = ("output_dir", "source_dir")
_JSON = "print the step's state file instead, errors too"
_FIELDS = {item.name: item for item in dataclasses.fields(Settings)}


class Option(NamedTuple):
    """A flag: off, or None where it takes a value, unless it is given."""

    name: str
    meaning: str
    takes_value: bool = False


class Outcome(NamedTuple):
    """What a task prints on stdout, what it prints there with `--json`, and its exit code."""

    text: str
    record: StepResult | Mapping[str, Any]
    code: int = 0

    def format_json(self) -> str:
        """Return the JSON for programs: a step's state file, or the record of a task that has none."""
        if isinstance(self.record, StepResult):
            return format_state(self.record).rstrip()
        return json.dumps({"schema": SCHEMA, **self.record}, indent=2)


def make_task(
    body: Callable[..., Outcome], *setting_names: str, options: tuple[Option, ...] = (), name: str | None = None
) -> Task[Any]:
    """Return the invoke task that opens a session, gives it to `body`, and prints the outcome.

    Args:
        body: Takes the session and, by name, each of `options`.
        setting_names: The settings that can be given as flags, besides the two that every task has.
    """
    names = tuple(dict.fromkeys((*_EVERY_TASK, *setting_names)))

    @wraps(body)
    def run(c: Context, **given: Any) -> None:  # noqa: ANN401 - flags of every type
        with ending_well(as_json=given["json"]) as sessions:
            session = _open_session(c, {name.upper(): text for name in names if (text := _read_flag(name, given))})
            sessions.append(session)
            outcome = body(session, **{option.name: given[option.name] for option in options})
            session.console.show(outcome.format_json() if given["json"] else outcome.text)
            if outcome.code:
                raise SystemExit(outcome.code)

    flags = [flag for setting in names for flag in _list_flags(setting)]
    flags += [*options, Option("json", _JSON)]
    _set_flags(run, flags)
    return Task(
        run,
        name=name or body.__name__,
        auto_shortflags=False,
        help={flag.name.replace("_", "-"): flag.meaning for flag in flags},
    )


def _list_flags(setting: str) -> list[Option]:
    """Return the flag of a setting; two for a switch, so that either can go before what the environment says."""
    meaning = _FIELDS[setting].metadata["meaning"]
    if not _is_switch(setting):
        return [Option(setting, meaning, takes_value=True)]
    return [Option(setting, meaning), Option(f"no_{setting}", f"{setting.upper()}=false")]


def _read_flag(setting: str, given: Mapping[str, Any]) -> str | None:
    """Return what was typed for a setting, as text."""
    if not _is_switch(setting):
        text: str | None = given[setting]
        return text
    if given[setting] and given[f"no_{setting}"]:
        flag = setting.replace("_", "-")
        raise SettingError(f"--{flag} and --no-{flag} were both given", "give one of them")
    return "true" if given[setting] else "false" if given[f"no_{setting}"] else None


def _is_switch(setting: str) -> bool:
    return _FIELDS[setting].type == "bool"


def _open_session(c: Context, flags: dict[str, str]) -> Session:
    """Return a session with what the project's own `tasks.py` has said."""
    own = c.config.get(CONFIG_KEY, {})
    root = Path(own["root"]) if "root" in own else None
    return open_session(flags, root, dict(own.get("defaults", {})))


def _set_flags(run: Callable[..., None], flags: Sequence[Option]) -> None:
    """Give `run` the signature from which invoke reads its flags."""
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    read = [inspect.Parameter(flag.name, kind, default=None if flag.takes_value else False) for flag in flags]
    run.__signature__ = inspect.Signature([inspect.Parameter("c", kind), *read])  # type: ignore[attr-defined]
