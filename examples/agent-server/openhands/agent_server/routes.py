"""The endpoints: each takes the server and a request, and returns an answer or refuses."""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from http import HTTPStatus
from importlib import resources
from typing import TYPE_CHECKING

from openhands.agent_server import __version__
from openhands.agent_server.dependencies import RequestRefused, check_session_api_key, read_body
from openhands.agent_server.file_service import OutsideWorkspace

if TYPE_CHECKING:
    from email.message import Message
    from io import BufferedIOBase

    from openhands.agent_server.app import AgentServer

COMMAND_LIMIT_BYTES = 100_000  # Linux takes no argument above 128 KiB
FILE_LIMIT_BYTES = 64 << 20
DEFAULT_TIMEOUT_S = 30.0
MAX_TIMEOUT_S = 600.0
_FILE_PREFIX = "/api/file/"


@dataclass(frozen=True)
class Request:
    """What came in; the body is still to be read from `stream`."""

    method: str
    path: str
    headers: Message
    stream: BufferedIOBase


@dataclass(frozen=True)
class Answer:
    """What goes out."""

    body: bytes
    content_type: str = "application/json"
    status: HTTPStatus = HTTPStatus.OK


Endpoint = Callable[["AgentServer", Request], Answer]


def answer_request(server: AgentServer, request: Request) -> Answer:
    """Return the answer to `request`.

    Raises:
        RequestRefused: There is no such endpoint, or it refuses.
    """
    if request.path.startswith("/api/"):
        check_session_api_key(request.headers, server.config.session_api_key)
    endpoints = _ENDPOINTS.get(_FILE_PREFIX if request.path.startswith(_FILE_PREFIX) else request.path)
    if endpoints is None:
        raise RequestRefused(HTTPStatus.NOT_FOUND, "there is nothing here")
    endpoint = endpoints.get("GET" if request.method == "HEAD" else request.method)
    if endpoint is None:
        raise RequestRefused(HTTPStatus.METHOD_NOT_ALLOWED, f"this takes {' and '.join(endpoints)}")
    return endpoint(server, request)


def format_json(value: object, status: HTTPStatus = HTTPStatus.OK) -> Answer:
    """Return `value` as a JSON answer."""
    return Answer(json.dumps(value).encode(), status=status)


def _show_health(_server: AgentServer, _request: Request) -> Answer:
    return format_json("OK")


def _show_alive(_server: AgentServer, _request: Request) -> Answer:
    return format_json({"status": "ok"})


def _show_ready(server: AgentServer, _request: Request) -> Answer:
    if server.stopping.is_set():
        return format_json({"status": "stopping"}, HTTPStatus.SERVICE_UNAVAILABLE)
    return format_json({"status": "ready"})


def _show_server_info(server: AgentServer, _request: Request) -> Answer:
    return format_json(
        {
            "title": "OpenHands Agent Server",
            "version": __version__,
            "uptime": round(time.monotonic() - server.started, 3),
            "git_sha": server.config.git_sha,
            "git_ref": server.config.git_ref,
            "python_version": platform.python_version(),
        }
    )


def _show_page(_server: AgentServer, _request: Request) -> Answer:
    page = resources.files("openhands.agent_server").joinpath("static/index.html").read_bytes()
    return Answer(page, "text/html; charset=utf-8")


def _execute_command(server: AgentServer, request: Request) -> Answer:
    command, timeout_s = _parse_command(read_body(request.headers, request.stream, COMMAND_LIMIT_BYTES))
    try:
        return format_json(asdict(server.bash.execute(command, timeout_s)))
    except InterruptedError as error:
        raise RequestRefused(HTTPStatus.SERVICE_UNAVAILABLE, str(error)) from error


def _parse_command(body: bytes) -> tuple[str, float]:
    try:
        fields = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise RequestRefused(HTTPStatus.BAD_REQUEST, "the body is no JSON") from error
    command = fields.get("command") if isinstance(fields, dict) else None
    if not isinstance(command, str) or not command or "\0" in command or not _is_utf8(command):
        raise RequestRefused(HTTPStatus.UNPROCESSABLE_ENTITY, "`command` must be text, not empty and without NUL")
    timeout_s = fields.get("timeout", DEFAULT_TIMEOUT_S)
    if isinstance(timeout_s, bool) or not isinstance(timeout_s, int | float) or not 0 < timeout_s <= MAX_TIMEOUT_S:
        detail = f"`timeout` must be a number of seconds, above 0 and at most {MAX_TIMEOUT_S:g}"
        raise RequestRefused(HTTPStatus.UNPROCESSABLE_ENTITY, detail)
    return command, timeout_s


def _is_utf8(text: str) -> bool:
    return not any("\ud800" <= char <= "\udfff" for char in text)


def _read_file(server: AgentServer, request: Request) -> Answer:
    path = request.path.removeprefix(_FILE_PREFIX)
    try:
        return Answer(server.files.read(path, FILE_LIMIT_BYTES), "application/octet-stream")
    except (OSError, OverflowError, OutsideWorkspace) as error:
        raise _refuse_file(error) from error


def _write_file(server: AgentServer, request: Request) -> Answer:
    path = request.path.removeprefix(_FILE_PREFIX)
    content = read_body(request.headers, request.stream, FILE_LIMIT_BYTES)
    try:
        server.files.write(path, content)
    except (OSError, OutsideWorkspace) as error:
        raise _refuse_file(error) from error
    return format_json({"size": len(content)}, HTTPStatus.CREATED)


def _refuse_file(error: Exception) -> RequestRefused:
    match error:
        case OutsideWorkspace():
            return RequestRefused(HTTPStatus.FORBIDDEN, "the path leads out of the workspace")
        case OverflowError():
            return RequestRefused(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"the file is above {FILE_LIMIT_BYTES} bytes")
        case FileNotFoundError():
            return RequestRefused(HTTPStatus.NOT_FOUND, "there is no such file")
        case FileExistsError() | NotADirectoryError():
            return RequestRefused(HTTPStatus.CONFLICT, "a folder is in the way, or a file where a folder is needed")
        case PermissionError():
            return RequestRefused(HTTPStatus.FORBIDDEN, "the server may not touch this file")
        case OSError(strerror=reason):
            return RequestRefused(HTTPStatus.INTERNAL_SERVER_ERROR, f"the file cannot be used: {reason}")
    raise error


_ENDPOINTS: dict[str, dict[str, Endpoint]] = {
    "/": {"GET": _show_page},
    "/health": {"GET": _show_health},
    "/alive": {"GET": _show_alive},
    "/ready": {"GET": _show_ready},
    "/server_info": {"GET": _show_server_info},
    "/api/bash/execute": {"POST": _execute_command},
    _FILE_PREFIX: {"GET": _read_file, "PUT": _write_file},
}
