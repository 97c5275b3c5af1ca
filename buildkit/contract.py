"""The image contract: what those who start an image rely on."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from buildkit.models import Target
    from buildkit.settings import Settings

USER = "openhands"
UID = 10001
WORKSPACE = "/workspace/project"
# The first is what the server has always read, the second is what it reads today.
SESSION_VARIABLES = ("SESSION_API_KEY", "OH_SESSION_API_KEYS_0")
GIT_SHA, GIT_REF = "OPENHANDS_BUILD_GIT_SHA", "OPENHANDS_BUILD_GIT_REF"


class ImageContract(NamedTuple):
    """What is promised about one image.

    Attributes:
        server_module: Such as `openhands.agent_server`; what the source targets run.
        server_name: Such as `openhands-agent-server`; what the binary targets run.
        sha: The commit it was built from, or None if it is not known.
    """

    target: Target
    server_module: str
    server_name: str
    port: int
    sha: str | None

    @classmethod
    def from_settings(cls, settings: Settings, target: Target, sha: str | None) -> ImageContract:
        """Return the contract of an image that was built with these settings."""
        return cls(target, settings.server_module, settings.server_name, settings.server_port, sha)

    @property
    def server(self) -> tuple[str, ...]:
        """The command that tini starts."""
        if self.target.is_binary:
            return (f"/usr/local/bin/{self.server_name}",)
        return ("/agent-server/.venv/bin/python", "-m", self.server_module)
