"""Turn a checkout of an agent server into a build context, have a Runtime API build it, and wait for the image.

The steps can be called without invoke: each takes a `Workspace`, what it acts on, a request or `Settings`, and a `Ui`,
and returns one of the models. Everything is loaded when it is first used, so importing the package costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from buildkit.errors import RuntimeBuildError as RuntimeBuildError
    from buildkit.models import BuildContext as BuildContext
    from buildkit.models import BuildResult as BuildResult
    from buildkit.models import Dockerfile as Dockerfile
    from buildkit.models import LocalBuild as LocalBuild
    from buildkit.models import Submission as Submission
    from buildkit.models import Target as Target
    from buildkit.models import Verification as Verification
    from buildkit.models import Version as Version
    from buildkit.runtime_api.client import RuntimeApi as RuntimeApi
    from buildkit.settings import Settings as Settings
    from buildkit.source.tree import SourceTree as SourceTree
    from buildkit.tasks.build import BuildRequest as BuildRequest
    from buildkit.tasks.build import build as build
    from buildkit.tasks.context import pack_context as pack_context
    from buildkit.tasks.dockerfile import render_dockerfile as render_dockerfile
    from buildkit.tasks.manifest import ManifestRequest as ManifestRequest
    from buildkit.tasks.manifest import render_manifest as render_manifest
    from buildkit.tasks.upload import UploadRequest as UploadRequest
    from buildkit.tasks.upload import upload as upload
    from buildkit.tasks.verify import VerifyRequest as VerifyRequest
    from buildkit.tasks.verify import verify as verify
    from buildkit.tasks.version import describe_version as describe_version
    from buildkit.tasks.wait import WaitRequest as WaitRequest
    from buildkit.tasks.wait import wait as wait
    from buildkit.ui import Ui as Ui
    from buildkit.workspace import Workspace as Workspace

_EXPORTS = {
    "errors": ("RuntimeBuildError",),
    "models": (
        "BuildContext",
        "BuildResult",
        "Dockerfile",
        "LocalBuild",
        "Submission",
        "Target",
        "Verification",
        "Version",
    ),
    "runtime_api.client": ("RuntimeApi",),
    "settings": ("Settings",),
    "source.tree": ("SourceTree",),
    "tasks.build": ("BuildRequest", "build"),
    "tasks.context": ("pack_context",),
    "tasks.dockerfile": ("render_dockerfile",),
    "tasks.manifest": ("ManifestRequest", "render_manifest"),
    "tasks.upload": ("UploadRequest", "upload"),
    "tasks.verify": ("VerifyRequest", "verify"),
    "tasks.version": ("describe_version",),
    "tasks.wait": ("WaitRequest", "wait"),
    "ui": ("Ui",),
    "workspace": ("Workspace",),
}
_MODULES = {name: module for module, names in _EXPORTS.items() for name in names}
__all__ = [name for names in _EXPORTS.values() for name in names]


def __getattr__(name: str) -> object:
    """Return what `__all__` names, loaded now (https://peps.python.org/pep-0562/)."""
    if name not in _MODULES:
        raise AttributeError(f"module 'buildkit' has no attribute {name!r}")
    return getattr(import_module(f"buildkit.{_MODULES[name]}"), name)
