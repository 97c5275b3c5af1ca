"""Pages from templates. Whatever a template shows is escaped, and control characters in it are made visible."""

from __future__ import annotations

import functools
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import jinja2
from markupsafe import Markup

from buildkit.display import escape_controls, format_duration, format_size
from buildkit.runtime_api.protocol import ENDED
from buildkit.server.log_page import render_line
from buildkit.template import FOLDERS

if TYPE_CHECKING:
    from buildkit.server.records import Build

# The word and the colour of each status; those of other servers are never shown here.
STATUSES = {
    "PENDING": ("Pending", "idle"),
    "QUEUED": ("Queued", "idle"),
    "RUNNING": ("Running", "busy"),
    "SUCCESS": ("Succeeded", "good"),
    "FAILURE": ("Failed", "bad"),
    "INTERNAL_ERROR": ("Internal error", "bad"),
    "TIMEOUT": ("Timed out", "warn"),
    "CANCELLED": ("Cancelled", "idle"),
    "EXPIRED": ("Expired", "warn"),
}
_LINES_BEFORE = 20
_MINUTE, _HOUR, _DAY = 60, 3600, 86_400


def render_page(name: str, **values: Any) -> str:  # noqa: ANN401 - what a template shows
    """Return a page; `values` may contain text from anywhere."""
    return _environment().get_template(f"server/{name}.html.j2").render(values)


@functools.cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(FOLDERS),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=_make_visible,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "age": _format_age,
        "duration": _format_build_duration,
        "first_line": lambda text: text.strip().partition("\n")[0],
        "growth": lambda size: f"{'+' if size >= 0 else '-'}{format_size(abs(size))}",
        "iso": lambda seconds: datetime.fromtimestamp(seconds, UTC).isoformat(" ", "seconds"),
        "log_line": lambda text: Markup(render_line(text)),  # noqa: S704 - `render_line` escapes
        "log_link": _link_log,
        "size": format_size,
        "status_class": lambda status: STATUSES[status][1],
        "status_word": lambda status: STATUSES[status][0],
        "tag": lambda image: image.rpartition("/")[2].partition(":")[2] or image,
    }
    return environment


def _make_visible(value: object) -> object:
    return escape_controls(value, keep="\n\t") if type(value) is str else value


def _format_age(seconds: float) -> str:
    age = max(0, round(time.time() - seconds))
    if age < _MINUTE:
        return "just now"
    unit, name = next((unit, name) for unit, name in ((_DAY, "d"), (_HOUR, "h"), (_MINUTE, "min")) if age >= unit)
    return f"{age // unit} {name} ago"


def _format_build_duration(build: Build) -> str:
    if build.started_at is None:
        return ""
    end = build.finished_at if build.status in ENDED and build.finished_at else time.time()
    return format_duration(max(0.0, end - build.started_at))


def _link_log(build: Build, line: int | None = None) -> str:
    path = f"/builds/{quote(build.id, safe='')}/log"
    return path if line is None else f"{path}?from={max(1, line - _LINES_BEFORE)}#L{line}"
