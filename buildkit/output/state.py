"""State files: one step's result as JSON in the output directory, and whether it still fits what it was made from."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import types
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from buildkit.errors import LocalError
from buildkit.models import StepResult
from buildkit.output.atomic import write_file
from buildkit.output.directory import is_archive_name

Result = TypeVar("Result", bound=StepResult)

SCHEMA = 1


def save_state(directory: Path, result: StepResult) -> None:
    """Write `<step>.json`, whole or not at all.

    Raises:
        LocalError: It cannot be written.
    """
    write_file(directory / f"{result.step}.json", format_state(result).encode("ascii"))


def format_state(result: StepResult) -> str:
    """Return the JSON of a state file."""
    record = dataclasses.asdict(result)
    made_from = record.pop("made_from")
    return json.dumps({"schema": SCHEMA, **record, "made_from": made_from}, indent=2) + "\n"


def load_state(directory: Path, kind: type[Result], *, trace: bool = True) -> Result:
    """Return what `<step>.json` holds, when all that it was made from is still the same.

    Args:
        trace: Whether what it was made from is looked at.

    Raises:
        LocalError: It is missing, damaged, or was made from something else; the message names the task to run.
    """
    path = directory / f"{kind.step}.json"
    shown, task = f"{directory.name}/{path.name}", f"run `invoke {kind.step}`"
    try:
        record = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise LocalError(f"{shown} is missing", task) from None
    except (OSError, ValueError, RecursionError) as error:
        raise LocalError(f"{shown} cannot be read: {error}", f"{task} again") from error
    if not isinstance(record, dict) or record.get("schema") != SCHEMA:
        raise LocalError(f"{shown} is not a state file of schema {SCHEMA}", f"{task} again")
    hints = get_type_hints(kind)
    values = {item.name: record.get(item.name, ...) for item in dataclasses.fields(kind)}
    for name, value in values.items():
        # The archive's is a name, never a path: the record may come from elsewhere, and what it names is overwritten.
        if not _fits(value, hints[name]) or (name == "archive" and not is_archive_name(value)):
            raise LocalError(f"{shown} is damaged: {name!r} is missing or of another type", f"{task} again")
    result = kind(**values)
    made_from = result.made_from if trace else {}
    changed = [name for name, digest in made_from.items() if digest_file(directory / Path(name).name) != digest]
    if changed:
        raise LocalError(f"{shown} was made from another {changed[0]}", f"{task} again")
    return result


def find_state(directory: Path, kind: type[Result]) -> Result | None:
    """Return what `<step>.json` holds, None where there is no such file.

    Raises:
        LocalError: As in `load_state`, except for a missing file.
    """
    return load_state(directory, kind) if (directory / f"{kind.step}.json").exists() else None


def digest_files(directory: Path, *names: str) -> dict[str, str]:
    """Return `made_from` for a result that is made from these files of the output directory."""
    return {name: digest for name in names if (digest := digest_file(directory / name))}


def digest_file(path: Path) -> str | None:
    """Return a file's sha256 in hex, None where it cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return None


def _fits(value: Any, hint: Any) -> bool:  # noqa: ANN401 - that is the question
    if isinstance(hint, types.UnionType):
        return any(_fits(value, option) for option in get_args(hint))
    origin, parts = get_origin(hint), get_args(hint)
    if origin is list:
        return isinstance(value, list) and all(_fits(item, parts[0]) for item in value)
    if origin is dict:
        return isinstance(value, dict) and all(_fits(item, parts[1]) for item in value.values())
    if dataclasses.is_dataclass(hint):
        return isinstance(value, dict)
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    return type(value) is hint
