"""State files: a step's result as JSON and back, with every value checked against its type."""

from __future__ import annotations

import dataclasses
import json
import types
from typing import TYPE_CHECKING, TypeVar, get_args, get_origin, get_type_hints

from buildkit.models import StepResult, is_archive_name

if TYPE_CHECKING:
    from collections.abc import Mapping

    from _typeshed import DataclassInstance

Result = TypeVar("Result", bound=StepResult)
Record = TypeVar("Record", bound="DataclassInstance")

SCHEMA = 1


def format_state(result: StepResult) -> str:
    """Return the JSON of a state file."""
    record = dataclasses.asdict(result)
    made_from = record.pop("made_from")
    return json.dumps({"schema": SCHEMA, **record, "made_from": made_from}, indent=2) + "\n"


def parse_state(data: bytes, kind: type[Result]) -> Result:
    """Return the result that a state file contains.

    Raises:
        ValueError: It is not a state file of this kind; the text says why, as a clause.
    """
    try:
        record = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"cannot be read: {error}") from error
    if not isinstance(record, dict) or record.get("schema") != SCHEMA:
        raise ValueError(f"is not a state file of schema {SCHEMA}")
    result = _parse_record(record, kind)
    # A name, never a path: the record may come from elsewhere, and the file it names is overwritten.
    archive = getattr(result, "archive", None)
    if archive is not None and not is_archive_name(archive):
        raise ValueError("is damaged: 'archive' is not the name of an archive")
    return result


def _parse_record(record: Mapping[str, object], kind: type[Record]) -> Record:
    hints = get_type_hints(kind)
    values = {}
    for item in dataclasses.fields(kind):
        if item.name not in record and item.default is not dataclasses.MISSING:
            continue  # a field that an earlier release did not write
        try:
            values[item.name] = _parse_value(record.get(item.name, ...), hints[item.name])
        except TypeError as error:
            raise ValueError(f"is damaged: {item.name!r} is missing or has another type") from error
    return kind(**values)


def _parse_value(value: object, hint: object) -> object:
    """Return a value of the type `hint`."""
    origin, parts = get_origin(hint), get_args(hint)
    if origin is list and isinstance(value, list):
        return [_parse_value(item, parts[0]) for item in value]
    if origin is dict and isinstance(value, dict):
        return {name: _parse_value(item, parts[1]) for name, item in value.items()}
    if dataclasses.is_dataclass(hint) and isinstance(value, dict) and isinstance(hint, type):
        return _parse_record(value, hint)
    plain = parts if isinstance(hint, types.UnionType) else [hint]
    if type(value) in plain:
        return value
    if type(value) is int and float in plain:
        return float(value)
    raise TypeError
