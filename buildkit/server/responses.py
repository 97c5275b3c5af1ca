"""What responses say: records as compact JSON, and errors as refusals."""

from __future__ import annotations

import time
from dataclasses import asdict
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse, Response

from buildkit.errors import LocalError
from buildkit.server.bodies import RefusalResponse
from buildkit.server.refusals import Refused, explain_os_error

if TYPE_CHECKING:
    from collections.abc import Callable

    from starlette.requests import Request

    from buildkit.server.records import Build
    from buildkit.server.server import Server

NO_STORE = {"Cache-Control": "no-store"}
_GAUGE = "runtime_build_"


def respond(record: dict[str, Any], status: HTTPStatus = HTTPStatus.OK) -> Response:
    """Return compact JSON: an old client looks for `"build_id":"` without a space."""
    return JSONResponse(record, status, headers=NO_STORE)


def describe_status(build: Build, queue_position: int | None) -> dict[str, Any]:
    """Return what `/build_status` says of a build; what is not known is left out, because some clients show a null."""
    ended_at = build.finished_at or time.time()
    elapsed_s = None if build.started_at is None else round(max(0.0, ended_at - build.started_at), 1)
    known = {
        "status": build.status,
        "image": build.image,
        "error": build.error,
        "queue_position": queue_position,
        "started_at": build.started_at,
        "elapsed_s": elapsed_s,
        "step": build.step,
    }
    return {name: value for name, value in known.items() if value is not None and value != ""}


def describe_build(build: Build) -> dict[str, Any]:
    """Return what a list shows of a build; idempotency keys are their owners' own."""
    record = {"build_id": build.id, **asdict(build)}
    return {
        name: value for name, value in record.items() if value is not None and name not in {"id", "idempotency_key"}
    }


def format_metrics(server: Server) -> str:
    """Return the server's gauges in the text format of Prometheus.

    https://prometheus.io/docs/instrumenting/exposition_formats/
    """
    health = server.describe()
    gauges: dict[str, tuple[str, float]] = {
        "queued_builds": ("Builds that wait.", health["queued"]),
        "running_builds": ("Builds that an engine is building.", health["running"]),
        "builders": ("Engines and builders that are configured.", len(health["builders"])),
        "free_bytes": ("Free space on the disk of the server.", health["free_bytes"]),
    }
    lines: list[str] = []
    for name, (meaning, value) in gauges.items():
        lines += [f"# HELP {_GAUGE}{name} {meaning}", f"# TYPE {_GAUGE}{name} gauge", f"{_GAUGE}{name} {value}"]
    lines += [f"# HELP {_GAUGE}builds Builds that are kept, by status.", f"# TYPE {_GAUGE}builds gauge"]
    lines += [f'{_GAUGE}builds{{status="{status}"}} {count}' for status, count in sorted(server.store.counts().items())]
    return "\n".join(lines) + "\n"


def make_handlers() -> dict[Any, Callable[[Request, Any], Response]]:
    """Return a function for each kind of error, which makes a response of it."""
    return {
        Refused: lambda _, error: RefusalResponse(error),
        LocalError: lambda _, error: RefusalResponse(Refused(HTTPStatus.INSUFFICIENT_STORAGE, error.message)),
        OSError: lambda _, error: RefusalResponse(explain_os_error(error)),
        HTTPException: _refuse_call,
        ClientDisconnect: lambda *_: Response(status_code=HTTPStatus.BAD_REQUEST),
        Exception: lambda *_: respond({"detail": "internal error"}, HTTPStatus.INTERNAL_SERVER_ERROR),
    }


def _refuse_call(_: Request, error: HTTPException) -> Response:
    response = RefusalResponse(Refused(HTTPStatus(error.status_code), error.detail))
    response.headers.update(error.headers or {})
    return response
