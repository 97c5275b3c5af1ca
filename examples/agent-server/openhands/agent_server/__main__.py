"""The command: `python -m openhands.agent_server --host 0.0.0.0 --port 8000`."""

from __future__ import annotations

import argparse
import signal
import sys
import threading
from importlib import resources
from string import Template

from openhands.agent_server import __version__
from openhands.agent_server.app import AgentServer
from openhands.agent_server.config import Config, load_config

_LAST_ANSWERS_S = 0.5  # how long requests may still be answered once the server was told to stop
_MAX_PORT = 65535


def main(arguments: list[str] | None = None) -> int:
    """Serve until SIGTERM or SIGINT; return the exit code."""
    options = _parse(arguments)
    config = load_config()
    try:
        config.workspace.mkdir(parents=True, exist_ok=True)
        server = AgentServer(options.host, options.port, config)
    except OSError as error:
        sys.exit(
            f"error: cannot listen on {options.host}:{options.port} with the workspace {config.workspace}: {error}"
        )
    for number in (signal.SIGTERM, signal.SIGINT):  # set here because a process with PID 1 has no default for them
        signal.signal(number, lambda *_: threading.Thread(target=server.stop, daemon=True).start())
    with server:
        sys.stdout.write(_render_banner(server, config))
        sys.stdout.flush()
        server.serve_forever(poll_interval=0.1)
        server.wait_idle(_LAST_ANSWERS_S)
    return 0


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="openhands-agent-server", description="Serve a shell and files over HTTP.")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    parser.add_argument(
        "--port", default=8000, type=_parse_port, help="port; 0 takes a free one (default: %(default)s)"
    )
    parser.add_argument("--version", action="version", version=__version__)
    return parser.parse_args(arguments)


def _parse_port(text: str) -> int:
    port = int(text)
    if not 0 <= port <= _MAX_PORT:
        raise argparse.ArgumentTypeError(f"{port} is not between 0 and {_MAX_PORT}")
    return port


def _render_banner(server: AgentServer, config: Config) -> str:
    template = resources.files("openhands.agent_server").joinpath("templates/banner.txt").read_text(encoding="utf-8")
    return Template(template).substitute(
        version=__version__,
        url=server.url,
        workspace=config.workspace,
        key="set" if config.session_api_key else "not set: /api/ is switched off",
    )


if __name__ == "__main__":
    sys.exit(main())
