"""Turn a checkout of an agent server into a build context, have a Runtime API build it, and wait for the image.

The steps can be called without invoke: each takes a `Workspace`, what it acts on, a request or `Settings`, and a `Ui`,
and returns one of the models. Everything is loaded when it is first used, so importing the package costs nothing.
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
        Submission,
        Target,
        Verification,
        Version,
    )
    from buildkit.runtime_api.client import RuntimeApi
    from buildkit.settings import Settings
    from buildkit.source.tree import SourceTree
    from buildkit.tasks.build import BuildRequest, build
    from buildkit.tasks.context import pack_context
    from buildkit.tasks.dockerfile import render_dockerfile
    from buildkit.tasks.manifest import ManifestRequest, render_manifest
    from buildkit.tasks.upload import UploadRequest, upload
    from buildkit.tasks.verify import VerifyRequest, verify
    from buildkit.tasks.version import describe_version
    from buildkit.tasks.wait import WaitRequest, wait
    from buildkit.ui import Ui
    from buildkit.workspace import Workspace

__all__ = [
    "BuildContext",
    "BuildRequest",
    "BuildResult",
    "Dockerfile",
    "LocalBuild",
    "ManifestRequest",
    "RuntimeApi",
    "RuntimeBuildError",
    "Settings",
    "SourceTree",
    "Submission",
    "Target",
    "Ui",
    "UploadRequest",
    "Verification",
    "VerifyRequest",
    "Version",
    "WaitRequest",
    "Workspace",
    "build",
    "describe_version",
    "pack_context",
    "render_dockerfile",
    "render_manifest",
    "upload",
    "verify",
    "wait",
]

_MODULES = {
    "errors": {"RuntimeBuildError"},
    "runtime_api.client": {"RuntimeApi"},
    "settings": {"Settings"},
    "source.tree": {"SourceTree"},
    "tasks.build": {"BuildRequest", "build"},
    "tasks.context": {"pack_context"},
    "tasks.dockerfile": {"render_dockerfile"},
    "tasks.manifest": {"ManifestRequest", "render_manifest"},
    "tasks.upload": {"UploadRequest", "upload"},
    "tasks.verify": {"VerifyRequest", "verify"},
    "tasks.version": {"describe_version"},
    "tasks.wait": {"WaitRequest", "wait"},
    "ui": {"Ui"},
    "workspace": {"Workspace"},
}


def __getattr__(name: str) -> object:
    """Return what `__all__` names, loaded now (https://peps.python.org/pep-0562/)."""
    if name not in __all__:
        raise AttributeError(f"module 'buildkit' has no attribute {name!r}")
    module = next((module for module, names in _MODULES.items() if name in names), "models")
    return getattr(import_module(f"buildkit.{module}"), name)
