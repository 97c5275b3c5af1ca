"""Failures that say nothing about an image: whatever ended the build, another try may succeed."""

from __future__ import annotations

from buildkit.errors import LocalError, RuntimeBuildError


class Interruption(RuntimeBuildError):
    """The build ended for a reason that is not its own."""

    exit_code = 6


class Stalled(Interruption):
    """The build had logged nothing for too long, and was cancelled."""


class DiskFull(LocalError):
    """There is too little room for any build."""
