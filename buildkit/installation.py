"""How an image gets its packages: what the Dockerfile needs to know about a source tree."""

from __future__ import annotations

import re
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

from buildkit.errors import LocalError
from buildkit.files import read_bounded
from buildkit.source.dependencies import DependencyKind, VersionTool

if TYPE_CHECKING:
    from pathlib import Path

    from buildkit.models import Project, Version
    from buildkit.source.dependencies import Dependencies, GitDescription
    from buildkit.source.tree import SourceTree

_USERINFO = re.compile(r"://[^/\s@]*@")
_MAX_BYTES = 16_000_000
_TREE = "/agent-server"
# A folder of the source in a requirements file, perhaps as an editable package; as in programs/separate.py.
_OWN = re.compile(
    r"^(?:(?:-e|--editable)[\s=]+)?(?:[\w.-]+(?:\[[^]]*\])?\s*@\s*)?(?:file:|\.{1,2}(?:[/\[]|\s|$))", re.MULTILINE
)
_READERS = {
    DependencyKind.UV_LOCK: "`uv sync`",
    DependencyKind.POETRY_LOCK: "`poetry export`",
    DependencyKind.PDM_LOCK: "`pdm export`",
    DependencyKind.PROJECT: "`uv pip compile`",
    DependencyKind.SETUP: "`uv pip compile`",
}
_SCM = "SETUPTOOLS_SCM_PRETEND_VERSION"
# What each build plugin takes instead of asking git.
_VERSION_VARIABLES = {
    VersionTool.SETUPTOOLS_SCM: _SCM,
    VersionTool.HATCH_VCS: _SCM,
    VersionTool.UV_DYNAMIC: "UV_DYNAMIC_VERSIONING_BYPASS",
    VersionTool.POETRY_DYNAMIC: "POETRY_DYNAMIC_VERSIONING_BYPASS",
    VersionTool.PDM: "PDM_BUILD_SCM_VERSION",
}


def describe_installation(tree: SourceTree, version: Version) -> dict[str, Any]:
    """Return the names that the Dockerfile's template knows about the source and its packages.

    Raises:
        LocalError: The project's URL cannot be in the image's labels, or git is missing in a checkout.
    """
    project, description = tree.project, tree.describe()
    dependencies = project.dependencies
    needs_source = needs_whole_source(tree.path, dependencies)
    kept_as_is = dependencies.kind is DependencyKind.REQUIREMENTS and not needs_source
    named = kept_as_is or dependencies.kind is DependencyKind.PYLOCK
    return {
        "dependencies": dependencies,
        "git_versions": name_versions(project, description),
        "image_version": name_version(version, description),
        "import_paths": [str(PurePosixPath(_TREE, folder)) for folder in project.import_roots],
        "is_package": project.is_package,
        "kept_as_is": kept_as_is,
        "members": project.members,
        "needs_source": needs_source,
        "package_list": dependencies.path if named else "third-party.txt",
        "packages": [PurePosixPath(path).stem for path in project.packages],
        "reader": _READERS.get(dependencies.kind, "`uv pip install`"),
        "requires_python": project.requires_python,
        "source_url": _check_url(project.source_url),
    }


def needs_whole_source(source: Path, dependencies: Dependencies) -> bool:
    """Return whether the third-party packages are known only once the project's own have been looked into."""
    if dependencies.kind is not DependencyKind.REQUIREMENTS:
        return dependencies.kind in {DependencyKind.PROJECT, DependencyKind.SETUP}
    texts = (read_bounded(source / name, _MAX_BYTES, follow=True) for name in dependencies.files)
    return any(_OWN.search(text.decode("utf-8", "replace")) for text in texts)


def name_versions(project: Project, description: GitDescription) -> dict[str, str]:
    """Return the environment variables with which packages whose version comes from git are built."""
    names = dict.fromkeys(_VERSION_VARIABLES[tool] for tool in project.git_versions.values())
    for package, tool in project.git_versions.items():
        if _VERSION_VARIABLES[tool] == _SCM:
            names[f"{_SCM}_FOR_{re.sub(r'[-_.]+', '_', package).upper()}"] = None
    return dict.fromkeys(sorted(names), description.version)


def name_version(version: Version, description: GitDescription) -> str:
    """Return the image's version: as `git describe` says it if the commit follows a tag, or else commit and tag."""
    tagged = re.fullmatch(r"(.*)-([0-9]+)-g([0-9a-f]+)", description.text)
    text = f"{version.short_sha}-{version.primary_tag}"
    if tagged and version.sha and version.sha.startswith(tagged[3]):
        text = tagged[1] if tagged[2] == "0" else description.text
    return text + ("-dirty" if version.dirty else "")


def _check_url(url: str | None) -> str | None:
    """Return the project's URL if it may be in the image's labels."""
    if url and (not url.isprintable() or _USERINFO.search(url)):
        raise LocalError(
            "the source URL in [project.urls] has a control character, a user name or a password",
            "correct it in pyproject.toml",
        )
    return url
