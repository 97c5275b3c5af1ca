"""Templates: found in the package, overridden by name, rendered with no value undefined."""

from __future__ import annotations

import json
import re
import shlex
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jinja2

from buildkit.errors import SettingError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

# In a wheel the templates lie in the package, in a checkout beside it.
_PACKAGE = Path(__file__).parents[1]
_PACKAGED = (_PACKAGE / "templates", _PACKAGE.parent / "templates")
_BUILT_IN = "built-in"

# What rendering raises where a template is wrong: Jinja's own errors and those of the expressions in it.
_TEMPLATE_FAULTS = (jinja2.TemplateError, ArithmeticError, AttributeError, LookupError, TypeError, ValueError)


class _Environment(jinja2.Environment):
    """Lets an override extend the template that it overrides, under the same name."""

    def join_path(self, template: str, parent: str) -> str:
        return f"{_BUILT_IN}/{template}" if template == parent else template


def render_template(name: str, values: Mapping[str, Any], template_dir: Path | None = None) -> str:
    """Return the template `name` with `values` in it.

    Args:
        template_dir: Overrides built-in templates by name; such a file may extend the one that it overrides, and fill
            blocks of it.

    Raises:
        SettingError: The folder is missing, a template is wrong, or it uses a name that has no value.
    """
    environment = _load_environment(template_dir)
    try:
        text = environment.get_template(name).render(values)
        text.encode()  # half a surrogate pair can stand in a string, but not in a file
    except jinja2.TemplateNotFound as error:
        raise SettingError(f"there is no template {str(error)!r}", _fix(template_dir)) from error
    except jinja2.TemplateSyntaxError as error:
        place = f"{error.name or name}, line {error.lineno}"
        raise SettingError(f"template {place}: {error.message}", _fix(template_dir)) from error
    except _TEMPLATE_FAULTS as error:
        raise SettingError(f"template {_find_place(error, name, template_dir)}: {error}", _fix(template_dir)) from error
    except OSError as error:
        raise SettingError(f"template {name} cannot be read: {error}", "set TEMPLATE_DIR to readable files") from error
    return text


def quote_argument(value: str) -> str:
    r"""Return `value` in double quotes, as it stands behind ARG, ENV and LABEL in a Dockerfile.

    >>> print(quote_argument('costs "$5"'))
    "costs \"\$5\""
    """
    return '"' + re.sub(r'([\\"$])', r"\\\1", value) + '"'


def write_to(text: str, path: str) -> str:
    """Return a shell command that writes `text` to `path`; a heredoc would be shorter, but not every builder has it."""
    lines = ["'" + line.replace("'", "'\"'\"'") + "'" for line in text.splitlines()]
    return " \\\n    ".join(["printf '%s\\n'", *lines]) + f" >{shlex.quote(path)}"


def _load_environment(template_dir: Path | None) -> _Environment:
    if template_dir is not None and not template_dir.is_dir():
        raise SettingError(f"TEMPLATE_DIR is not a folder: {template_dir}", "set TEMPLATE_DIR to a folder of templates")
    built_in = jinja2.FileSystemLoader(_PACKAGED)
    overrides = [jinja2.FileSystemLoader(template_dir)] if template_dir else []
    environment = _Environment(
        loader=jinja2.ChoiceLoader([*overrides, built_in, jinja2.PrefixLoader({_BUILT_IN: built_in})]),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {
        "argument": quote_argument,
        "json": _format_json,
        "quote": shlex.quote,
        "shell_words": _join_words,
        "write_to": write_to,
    }
    return environment


def _format_json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)


def _join_words(words: Iterable[str]) -> str:
    return " ".join(shlex.quote(word) for word in words)


def _find_place(error: BaseException, name: str, template_dir: Path | None) -> str:
    """Return template and line: Jinja writes its templates' own into the traceback."""
    folders = [*([template_dir] if template_dir else []), *_PACKAGED]
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        for folder in folders:
            if Path(frame.filename).is_relative_to(folder):
                return f"{Path(frame.filename).relative_to(folder)}, line {frame.lineno}"
    return name


def _fix(template_dir: Path | None) -> str:
    return "correct the template in TEMPLATE_DIR" if template_dir else "install runtime-build again"
