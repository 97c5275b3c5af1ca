"""Project files as tables: TOML, `setup.cfg` and the literals in `setup.py`; a value of the wrong type is left out."""

from __future__ import annotations

import os
import tomllib
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

from buildkit.errors import LocalError
from buildkit.files import read_bounded

if TYPE_CHECKING:
    import ast
    from pathlib import Path

_MAX_BYTES = 16_000_000
_MAX_CODE_BYTES = 500_000
_MAX_NAME_LENGTH = 200


def load_toml(source: Path, name: str) -> dict[str, Any]:
    """Return what a TOML file says; nothing if there is no such file.

    Raises:
        LocalError: It cannot be read.
    """
    try:
        return tomllib.loads(read_text(source, name))
    except (ValueError, RecursionError) as error:
        raise LocalError(f"{name} cannot be read: {error}", f"correct {name}") from error


def load_setup(source: Path, folder: str = "") -> dict[str, Any]:
    """Return what `setup.cfg` and `setup.py` say, as the `[project]` table of a `pyproject.toml` would.

    `setup.py` is not run: only literals count. `reads` has the files that it names.
    """
    import ast
    import configparser

    found: dict[str, Any] = {}
    parser = configparser.ConfigParser(interpolation=None, strict=False)
    try:
        parser.read_string(read_code(source, f"{folder}setup.cfg"))
        code = ast.parse(read_code(source, f"{folder}setup.py"))
        words, names = _call_setup(code), _list_files(source / folder, code)
    except (configparser.Error, SyntaxError, ValueError, RecursionError, MemoryError):
        words, names = {}, []  # the build shows what is wrong with it
    cfg = {name: dict(parser[name]) for name in parser.sections()}
    options = cfg.get("options", {})
    found["name"] = words.get("name") or cfg.get("metadata", {}).get("name")
    found["requires-python"] = words.get("python_requires") or options.get("python_requires")
    listed = [line.strip() for line in options.get("install_requires", "").split("\n") if line.strip()]
    found["dependencies"] = words.get("install_requires", listed)
    entries = words.get("entry_points") or cfg.get("options.entry_points", {})
    scripts = strings(entries, "console_scripts") if isinstance(entries, dict) else []
    pairs = (line.partition("=") for text in scripts for line in text.split("\n") if "=" in line)
    found["scripts"] = {name.strip(): target.strip() for name, _, target in pairs}
    found["scripts"] |= {PurePosixPath(script).name: "" for script in strings(words, "scripts")}
    found["uses-scm"] = "use_scm_version" in words
    found["reads"] = names
    return found


def read_text(source: Path, name: str) -> str:
    """Return the text of a file; nothing if there is no such file.

    Raises:
        LocalError: It cannot be read, or is not UTF-8 text.
    """
    try:
        return read_bounded(source / name, _MAX_BYTES, follow=True).decode("utf-8")
    except (FileNotFoundError, NotADirectoryError):
        return ""
    except UnicodeDecodeError as error:
        raise LocalError(f"{name} cannot be read: {error}", f"save {name} as UTF-8 text") from error
    except OSError as error:
        raise LocalError(f"{name} cannot be read: {error.strerror}", f"make {name} a readable file") from error


def read_code(source: Path, name: str) -> str:
    """Return the text of a Python file, whatever its encoding; nothing if it cannot be read, or is very large."""
    try:
        data = read_bounded(source / name, _MAX_CODE_BYTES + 1, follow=True)
    except OSError:
        return ""
    return data.decode("utf-8", "replace") if len(data) <= _MAX_CODE_BYTES else ""


def table(settings: dict[str, Any], *keys: str) -> dict[str, Any]:
    """Return the table at a path of keys, or an empty one."""
    for key in keys:
        value = settings.get(key, {})
        settings = value if isinstance(value, dict) else {}
    return settings


def tables(settings: dict[str, Any], *keys: str) -> list[dict[str, Any]]:
    """Return the tables in the array at a path of keys."""
    value = table(settings, *keys[:-1]).get(keys[-1], [])
    return [entry for entry in value if isinstance(entry, dict)] if isinstance(value, list) else []


def strings(settings: dict[str, Any], key: str) -> list[str]:
    """Return the strings in an array, or the only one."""
    value = settings.get(key, [])
    if isinstance(value, str):
        return [value]
    return [entry for entry in value if isinstance(entry, str)] if isinstance(value, list) else []


def text(settings: dict[str, Any], key: str) -> str | None:
    """Return a string that is not empty, or None."""
    value = settings.get(key)
    return value if isinstance(value, str) and value else None


def inside(path: str, where: str) -> str:
    """Return `path` without `.` and repeated slashes; a source tree may not name anything outside itself.

    Raises:
        LocalError: It leads out of the source directory, or has a control character.
    """
    parts = [part for part in PurePosixPath(path).parts if part != "."]
    if not path.isprintable():
        raise LocalError(f"{where} names {path!r}, which has a control character", "correct pyproject.toml")
    if PurePosixPath(path).is_absolute() or ".." in parts:
        raise LocalError(
            f"{where} names {path!r}, which is outside the source directory",
            f"move it into the source directory, and correct {where}",
        )
    return "/".join(parts) or "."


def resolve(path: str) -> str | None:
    """Return `path` without `.`, `..` and repeated slashes, or None if it leads out of the source directory."""
    parts: list[str] = []
    for part in PurePosixPath(path).parts:
        if part == ".." and not parts:
            return None
        if part == "..":
            parts.pop()
        else:
            parts.append(part)
    return None if PurePosixPath(path).is_absolute() else "/".join(parts)


def _call_setup(module: ast.Module) -> dict[str, Any]:
    """Return the literal keyword arguments of the call of `setup`."""
    import ast

    known = {
        target.id: node.value
        for node in module.body
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    calls = [node for node in ast.walk(module) if isinstance(node, ast.Call)]
    named = [call for call in calls if ast.unparse(call.func) in {"setup", "setuptools.setup"}]
    words = {word.arg: word.value for call in named for word in call.keywords if word.arg}
    return {
        name: _evaluate(known.get(node.id, node) if isinstance(node, ast.Name) else node)
        for name, node in words.items()
    }


def _list_files(folder: Path, module: ast.Module) -> list[str]:
    """Return the files that a program names somewhere, which it probably reads."""
    import ast

    texts = {node.value for node in ast.walk(module) if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    places = {resolve(text) for text in texts if text.isprintable() and len(text) < _MAX_NAME_LENGTH}
    return sorted(place for place in places if place and os.path.isfile(folder / place))


def _evaluate(node: ast.expr) -> object:
    import ast

    try:
        return ast.literal_eval(node)
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
        return None
