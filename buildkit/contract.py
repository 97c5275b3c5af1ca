"""The image contract: what those who start an image rely on."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from buildkit.command import StartCommand

if TYPE_CHECKING:
    from buildkit.models import Target
    from buildkit.settings import Settings

USER = "openhands"
UID = 10001
WORKSPACE = "/workspace/project"
AGENT_SERVER = StartCommand.of_module("openhands.agent_server")
HEALTH = "/health"
# Of an agent server.
_MORE_ENDPOINTS = ("/alive", "/ready")
# The first is what the server has always read, the second is what it reads today.
SESSION_VARIABLES = ("SESSION_API_KEY", "OH_SESSION_API_KEYS_0")
GIT_SHA, GIT_REF = "OPENHANDS_BUILD_GIT_SHA", "OPENHANDS_BUILD_GIT_REF"


class ImageContract(NamedTuple):
    """What is promised about one image.

    Attributes:
        start: The command that starts the server; what the source targets run.
        server_name: Such as `openhands-agent-server`; what the binary targets run.
        sha: The commit it was built from, or None if it is not known.
        takes_address: Whether the server takes `--host` and `--port`.
        endpoints: Paths that it responds to, the health check's first.
    """

    target: Target
    start: StartCommand
    server_name: str
    port: int
    sha: str | None = None
    takes_address: bool = True
    endpoints: tuple[str, ...] = (HEALTH, *_MORE_ENDPOINTS)

    @classmethod
    def from_settings(cls, settings: Settings, target: Target, sha: str | None) -> ImageContract:
        """Return the contract of an image that was built with these settings."""
        command = settings.server_command
        start = command or StartCommand.of_module(settings.server_module)
        is_agent_server = start == AGENT_SERVER and settings.health_path == HEALTH
        endpoints = (HEALTH, *_MORE_ENDPOINTS) if is_agent_server else (settings.health_path,)
        return cls(target, start, settings.server_name, settings.server_port, sha, command is None, endpoints)

    @property
    def server(self) -> tuple[str, ...]:
        """The command that tini starts."""
        if self.target.is_binary:
            return (f"/usr/local/bin/{self.server_name}", *self.start.options)
        return self.start.words

    @property
    def address(self) -> tuple[str, ...]:
        """The arguments that a caller may replace: every address of the container, as `docker run -p` needs it."""
        return ("--host", "0.0.0.0", "--port", str(self.port)) if self.takes_address else ()  # noqa: S104 - see above
