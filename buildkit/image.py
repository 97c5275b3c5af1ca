"""What the templates say about an image: its names, its labels, the command that starts its server."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from buildkit.contract import AGENT_SERVER, HEALTH, ImageContract
from buildkit.models import TARGETS
from buildkit.reference import name_local_image
from buildkit.values import parse_flag

if TYPE_CHECKING:
    from buildkit.models import Version
    from buildkit.settings import Settings


def describe_image(settings: Settings, version: Version, git_ref: str) -> dict[str, Any]:
    """Return the names that every template knows; a project's own templates may use them, too."""
    target = settings.target
    contract = ImageContract.from_settings(settings, target, version.sha)
    health, split = contract.endpoints[0], settings.build_args.get("SPLIT_EXECUTABLE")
    return {
        "target": target,
        "development": target == "source",
        "base_image": settings.base_image,
        "builder_image": settings.builder_image,
        "build_args": dict(sorted(settings.build_args.items())),
        "build_packages": list(settings.build_packages),
        "extra_packages": list(settings.extra_packages),
        "features": frozenset() if target.is_minimal else settings.features,
        "split_executable": parse_flag(split or "false", "BUILD_ARGS=SPLIT_EXECUTABLE"),
        "start": contract.start,
        "server_command": settings.server_command,
        "server_module": settings.server_module,
        "server_name": settings.server_name,
        "server_port": settings.server_port,
        "entrypoint": ["tini", "--", *contract.server],
        "address": list(contract.address),
        "has_contract": target in TARGETS,
        "health_path": health,
        "health_command": ["agent-server-health", str(contract.port), *([] if health == HEALTH else [health])],
        "is_agent_server": contract.start == AGENT_SERVER,
        "image_name": name_local_image(settings.server_name),
        "archive": version.archive,
        "folder": version.archive.removesuffix(".tar.gz"),
        "revision": version.sha or version.short_sha,
        "dirty": version.dirty,
        "created": _format_time(version.commit_time),
        "git_ref": git_ref,
        "derived_from": None,
    }


def _format_time(commit_time: int | None) -> str | None:
    return None if commit_time is None else datetime.fromtimestamp(commit_time, UTC).isoformat()
