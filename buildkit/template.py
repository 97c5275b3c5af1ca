"""Templates and programs: found in the package, or in TEMPLATE_DIR by the same name; rendered in Jinja's sandbox."""

from __future__ import annotations

import json
import shlex
import traceback
from functools import partial
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import jinja2
import jinja2.sandbox

from buildkit.errors import SettingError
from buildkit.files import read_bounded

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from jinja2.bccache import Bucket

# In a wheel the templates are in the package, in a checkout next to it.
FOLDERS = (Path(__file__).parent / "templates", Path(__file__).parents[1] / "templates")
_BUILT_IN = "built-in"
_MAX_BYTES = 4_000_000

# What rendering raises if a template is wrong: Jinja's own errors and those of the expressions in it.
_TEMPLATE_ERRORS = (jinja2.TemplateError, ArithmeticError, AttributeError, LookupError, TypeError, ValueError)


class _Compiled(jinja2.BytecodeCache):
    """Keeps what templates compile to while the process runs: many Dockerfiles are rendered from the same templates."""

    def __init__(self) -> None:
        self._code: dict[str, bytes] = {}

    def load_bytecode(self, bucket: Bucket) -> None:
        if code := self._code.get(bucket.key):
            bucket.bytecode_from_string(code)  # which ignores it if the source has changed

    def dump_bytecode(self, bucket: Bucket) -> None:
        self._code[bucket.key] = bucket.bytecode_to_string()


_COMPILED = _Compiled()


class _Environment(jinja2.sandbox.SandboxedEnvironment):
    """Lets an override extend the template that it overrides, under the same name."""

    def join_path(self, template: str, parent: str) -> str:
        return f"{_BUILT_IN}/{template}" if template == parent else template


def render_template(name: str, values: Mapping[str, Any], template_dir: Path | None = None) -> str:
    """Return the template `name` with `values` in it.

    Args:
        template_dir: Its files override the built-in templates by name. An override may extend the template that it
            replaces, and fill its blocks.

    Raises:
        SettingError: A template is wrong, cannot be read, or uses a name that has no value.
    """
    environment = _make_environment(template_dir)
    try:
        text = environment.get_template(name).render(values)
        text.encode()  # half a surrogate pair fits into a string, but not into a file
    except jinja2.TemplateNotFound as error:
        raise SettingError(f"there is no template {str(error)!r}", _fix(template_dir)) from error
    except jinja2.TemplateSyntaxError as error:
        place = f"{error.name or name}, line {error.lineno}"
        raise SettingError(f"template {place}: {error.message}", _fix(template_dir)) from error
    except UnicodeDecodeError as error:
        raise SettingError(f"template {name} is not UTF-8 text: {error}", _fix(template_dir)) from error
    except _TEMPLATE_ERRORS as error:
        raise SettingError(f"template {_find_place(error, name, template_dir)}: {error}", _fix(template_dir)) from error
    except OSError as error:
        raise _refuse(name, error) from error
    return text


def read_program(name: str, template_dir: Path | None = None) -> bytes:
    """Return a program that the Dockerfile runs: the file `programs/<name>`, as it is."""
    try:
        return _find_file(f"programs/{name}", template_dir)[0]
    except jinja2.TemplateNotFound as error:
        raise SettingError(f"there is no program {name!r}", _fix(template_dir)) from error
    except OSError as error:
        raise _refuse(f"programs/{name}", error) from error


def quote_value(value: str, escape: str = "\\") -> str:
    r"""Return `value` in double quotes, as ARG, ENV and LABEL take it.

    Args:
        escape: The character that escapes in this Dockerfile.

    >>> print(quote_value('costs "$5"'))
    "costs \"\$5\""
    """
    return '"' + "".join(escape + char if char in {'"', "$", escape} else char for char in value) + '"'


def _make_environment(template_dir: Path | None) -> _Environment:
    environment = _Environment(
        bytecode_cache=_COMPILED,
        loader=jinja2.FunctionLoader(partial(_load_template, template_dir=template_dir)),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {
        "argument": lambda value: quote_value(str(value)),
        "json": _format_json,
        "quote": shlex.quote,
        "shell_words": _join_words,
    }
    return environment


def _load_template(name: str, *, template_dir: Path | None) -> tuple[str, str, None]:
    data, path = _find_file(name, template_dir)
    return data.decode("utf-8"), str(path), None


def _find_file(name: str, template_dir: Path | None) -> tuple[bytes, Path]:
    """Return the contents of the first file of that name, and its path; a FIFO is refused, and never blocks.

    Raises:
        jinja2.TemplateNotFound: There is none.
        OSError: It cannot be read.
    """
    plain = name.removeprefix(f"{_BUILT_IN}/")
    overrides = [template_dir] if template_dir and plain == name else []
    if ".." not in plain.split("/") and not PurePosixPath(plain).is_absolute():
        for folder in (*overrides, *FOLDERS):
            try:
                return read_bounded(folder / plain, _MAX_BYTES, follow=True), folder / plain
            except (FileNotFoundError, NotADirectoryError):
                continue
    raise jinja2.TemplateNotFound(name)


def _format_json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)


def _join_words(words: Iterable[str]) -> str:
    return " ".join(shlex.quote(word) for word in words)


def _find_place(error: BaseException, name: str, template_dir: Path | None) -> str:
    """Return the template and the line: Jinja puts those of its templates into the traceback."""
    folders = [*([template_dir] if template_dir else []), *FOLDERS]
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        for folder in folders:
            if Path(frame.filename).is_relative_to(folder):
                return f"{Path(frame.filename).relative_to(folder)}, line {frame.lineno}"
    return name


def _refuse(name: str, error: OSError) -> SettingError:
    return SettingError(f"template {name} cannot be read: {error}", "set TEMPLATE_DIR to a folder of readable files")


def _fix(template_dir: Path | None) -> str:
    return "correct the template in TEMPLATE_DIR" if template_dir else "install runtime-build again"
