"""How a function becomes an invoke task: flags from the table of settings, `--json`, errors as exit codes."""

from __future__ import annotations

import dataclasses
import inspect
import json
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from invoke.tasks import Task

from buildkit.models import StepResult
from buildkit.session import Session, ending_well, open_session
from buildkit.settings import Settings
from buildkit.state import SCHEMA, format_state

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from invoke.context import Context

CONFIG_KEY = "runtime_build"
_EVERY_TASK = ("output_dir", "source_dir")
_JSON = "print the step's state file instead, errors too"
_FIELDS = {item.name: item for item in dataclasses.fields(Settings)}


class Option(NamedTuple):
    """A flag that is no setting: off or None unless it is given."""

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
    switches = {setting: _FIELDS[setting].metadata["default"] == "true" for setting in names if _is_switch(setting)}

    @wraps(body)
    def run(c: Context, **given: Any) -> None:  # noqa: ANN401 - flags of every type
        typed = [setting for setting in names if given[setting] not in (None, switches.get(setting))]
        with ending_well(as_json=given["json"]) as sessions:
            session = _open_session(c, {setting.upper(): str(given[setting]) for setting in typed})
            sessions.append(session)
            outcome = body(session, **{option.name: given[option.name] for option in options})
            session.console.show(outcome.format_json() if given["json"] else outcome.text)
            if outcome.code:
                raise SystemExit(outcome.code)

    every_option = (*options, Option("json", _JSON))
    defaults: dict[str, Any] = {setting: switches.get(setting) for setting in names}
    defaults |= {option.name: None if option.takes_value else False for option in every_option}
    _set_flags(run, defaults)
    meanings = {setting: _FIELDS[setting].metadata["meaning"] for setting in names}
    meanings |= {option.name: option.meaning for option in every_option}
    return Task(
        run,
        name=name or body.__name__,
        auto_shortflags=False,
        help={flag.replace("_", "-"): text for flag, text in meanings.items()},
    )


def _is_switch(setting: str) -> bool:
    return _FIELDS[setting].type == "bool"


def _open_session(c: Context, flags: dict[str, str]) -> Session:
    """Return a session with what the project's own `tasks.py` has said."""
    own = c.config.get(CONFIG_KEY, {})
    root = Path(own["root"]) if "root" in own else None
    return open_session(flags, root, dict(own.get("defaults", {})))


def _set_flags(run: Callable[..., None], defaults: Mapping[str, Any]) -> None:
    """Give `run` the signature from which invoke reads its flags."""
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    flags = [inspect.Parameter(flag, kind, default=value) for flag, value in defaults.items()]
    run.__signature__ = inspect.Signature([inspect.Parameter("c", kind), *flags])  # type: ignore[attr-defined]
