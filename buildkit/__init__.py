"""Turn a checkout of an agent server into a build context, have a Runtime API build it, and wait for the image.

The steps can be called without invoke; each takes plain values and returns one of the models. They are loaded when they
are first used, so that importing the package costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from buildkit.errors import RuntimeBuildError
    from buildkit.models import (
        BuildContext,
        BuildResult,
        Dockerfile,
        LocalBuild,
        Project,
        Submission,
        Verification,
        Version,
    )
    from buildkit.steps.build import build_image
    from buildkit.steps.context import pack_context
    from buildkit.steps.derive import derive_dockerfile
    from buildkit.steps.dockerfile import render_dockerfile
    from buildkit.steps.logs import read_logs
    from buildkit.steps.manifest import render_manifest
    from buildkit.steps.upload import submit_build
    from buildkit.steps.verify import verify_image
    from buildkit.steps.version import describe_version
    from buildkit.steps.wait import poll_build

__all__ = [
    "BuildContext",
    "BuildResult",
    "Dockerfile",
    "LocalBuild",
    "Project",
    "RuntimeBuildError",
    "Submission",
    "Verification",
    "Version",
    "build_image",
    "derive_dockerfile",
    "describe_version",
    "pack_context",
    "poll_build",
    "read_logs",
    "render_dockerfile",
    "render_manifest",
    "submit_build",
    "verify_image",
]

_STEPS = {
    "build_image": "build",
    "derive_dockerfile": "derive",
    "describe_version": "version",
    "pack_context": "context",
    "poll_build": "wait",
    "read_logs": "logs",
    "render_dockerfile": "dockerfile",
    "render_manifest": "manifest",
    "submit_build": "upload",
    "verify_image": "verify",
}


def __getattr__(name: str) -> object:
    """Return what `__all__` names, loaded now (https://peps.python.org/pep-0562/)."""
    if name not in __all__:
        raise AttributeError(f"module 'buildkit' has no attribute {name!r}")
    if name in _STEPS:
        return getattr(import_module(f"buildkit.steps.{_STEPS[name]}"), name)
    module = "errors" if name == "RuntimeBuildError" else "models"
    return getattr(import_module(f"buildkit.{module}"), name)
