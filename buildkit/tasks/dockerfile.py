"""Task `dockerfile`: a Dockerfile that needs no target and no build arguments, its programs, and instructions."""

from __future__ import annotations

import hashlib
import re
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, NamedTuple

from buildkit.errors import LocalError, SettingError, run
from buildkit.generated import find_programs
from buildkit.models import PROGRAMS, Dockerfile, Target, Version
from buildkit.reference import name_local_image
from buildkit.task import Outcome, Run, Task
from buildkit.workspace import DOCKERFILE, INSTRUCTIONS

if TYPE_CHECKING:
    from pathlib import Path

    from buildkit.settings import Settings
    from buildkit.source.tree import SourceTree
    from buildkit.ui import Ui
    from buildkit.workspace import Workspace

_MAX_BYTES = 4_000_000
_COPIED_PATH = re.compile(r"[\w.@+ -][\w.@+ /-]*")
_USERINFO = re.compile(r"://[^/\s@]*@")
_ONLY_FOR_TEMPLATE = ("EXTRA_PACKAGES", "FEATURES", "PYINSTALLER_SPEC", "SPLIT_EXECUTABLE")


class DockerfileRequest(NamedTuple):
    """What the user wants of the Dockerfile.

    Attributes:
        origins: The layer that each setting came from, by the name of its variable.
        template_dir: Its files override our templates and programs by name.
        link_layers: Whether the server is copied with `COPY --link`, which docker before 23 and buildah do not know.
            BuildKit then puts the same layer on another base image without copying it again.
    """

    settings: Settings
    origins: dict[str, str]
    template_dir: Path | None
    link_layers: bool = False

    @classmethod
    def from_run(cls, this: Run) -> DockerfileRequest:
        """Return what the settings of a run say."""
        return cls(this.settings, this.loaded.origins, this.template_dir)

    def has(self, name: str) -> bool:
        """Return whether somebody set this setting."""
        return self.origins.get(name, "default") != "default"


class _Rendered(NamedTuple):
    """The Dockerfile's text, and what the instructions say about it."""

    text: str
    base_image: str
    derived_from: str | None


def render_dockerfile(workspace: Workspace, tree: SourceTree, request: DockerfileRequest, ui: Ui) -> Dockerfile:
    """Return what `dockerfile.json` says; the Dockerfile, its programs and the instructions are next to it.

    The same source and settings give the same bytes: nothing depends on the clock.

    Raises:
        SettingError: A template is wrong, or DOCKERFILE does not have what the settings name.
        LocalError: The target needs something that the source does not have.
    """
    from buildkit.template import read_program, render_template

    version = workspace.load(Version)
    settings, template_dir = request.settings, request.template_dir
    values = _collect_values(tree, settings, version)
    rendered = _derive(tree, request, version, ui) if settings.dockerfile else _render(tree, request, values)
    described = values | {"base_image": rendered.base_image, "derived_from": rendered.derived_from}
    instructions = render_template("BUILD_INSTRUCTIONS.md.j2", described, template_dir)
    programs = {name: read_program(name, template_dir) for name in find_programs(rendered.text)}
    for name in PROGRAMS:
        if name in programs:
            workspace.write(name, programs[name])
        else:
            workspace.remove(name)
    data = rendered.text.encode("utf-8")
    workspace.write(DOCKERFILE, data)
    workspace.write(INSTRUCTIONS, instructions.encode("utf-8"))
    result = Dockerfile(
        target=str(settings.target),
        base_image=rendered.base_image,
        dockerfile_sha256=hashlib.sha256(data).hexdigest(),
        build_args=settings.build_args,
        made_from=workspace.digests("version.json"),
    )
    workspace.save(result)
    return result


def _render(tree: SourceTree, request: DockerfileRequest, values: dict[str, Any]) -> _Rendered:
    """Return the Dockerfile from our template, or from the one that overrides it."""
    from buildkit.template import render_template

    settings = request.settings
    spec = tree.find_spec(settings.pyinstaller_spec) if settings.target.is_binary else None
    if settings.target.is_binary and spec is None:
        raise LocalError(
            f"target {str(settings.target)!r} needs a PyInstaller spec, and the source tree has none",
            "set PYINSTALLER_SPEC to its path in the source directory, or choose a source target",
        )
    for path in (*tree.project.members, *filter(None, [spec])):
        if not _COPIED_PATH.fullmatch(path):
            raise LocalError(
                f"a path cannot be used in a Dockerfile: {path!r}", "rename it, using only letters, digits and . _ -"
            )
    text = render_template(
        "Dockerfile.j2", values | {"spec": spec, "link_layers": request.link_layers}, request.template_dir
    )
    return _Rendered(text, str(settings.base_image), None)


def _derive(tree: SourceTree, request: DockerfileRequest, version: Version, ui: Ui) -> _Rendered:
    """Return the Dockerfile from the source's own, which DOCKERFILE names."""
    from buildkit.derived import GIT_REF, GIT_SHA, IMAGES, derive_dockerfile, find_unpacked

    settings = request.settings
    path = settings.dockerfile or ""
    values = {**settings.build_args, GIT_SHA: version.sha or "unknown", GIT_REF: tree.ref(version.sha)}
    values |= {name: str(getattr(settings, name.lower())) for name in IMAGES if request.has(name)}
    derived = derive_dockerfile(_read_own(tree.path, path), path, settings.target, values, ui)
    if ignored := [name for name in _ONLY_FOR_TEMPLATE if request.has(name)]:
        ui.warn(f"ignored because DOCKERFILE is set: {', '.join(ignored)}")
    if missing := find_unpacked(derived.text, [*tree.select().files, DOCKERFILE, INSTRUCTIONS]):
        ui.warn(
            f"{path} copies what is not in the build context: {', '.join(missing)};"
            f" add it to INCLUDE, or run {run('context', '--explain', missing[0])}"
        )
    return _Rendered(derived.text, derived.base_image, path)


def _read_own(source: Path, path: str) -> str:
    """Return the text of the Dockerfile at `path` in the source, with its line ends.

    Raises:
        SettingError: `path` leads out of the source.
        LocalError: It cannot be read, or is not UTF-8 text.
    """
    from buildkit.files import read_bounded

    file = source / path
    if not file.resolve().is_relative_to(source.resolve()):
        raise SettingError(
            f"DOCKERFILE is outside the source directory: {path!r}", "set DOCKERFILE to a path below SOURCE_DIR"
        )
    try:
        return read_bounded(file, _MAX_BYTES, follow=True).decode("utf-8")
    except OSError as error:
        raise LocalError(
            f"DOCKERFILE names {path!r}, which cannot be read: {error.strerror or error}",
            "set DOCKERFILE to a file below SOURCE_DIR, or unset it to use the built-in one",
        ) from error
    except UnicodeDecodeError as error:
        raise LocalError(f"DOCKERFILE names {path!r}, which is not UTF-8 text: {error}", "save it as UTF-8") from error


def _collect_values(tree: SourceTree, settings: Settings, version: Version) -> dict[str, Any]:
    """Return every name that the templates know; a project's own templates may use them, too."""
    target = settings.target
    return {
        "target": target,
        "development": target is Target.SOURCE,
        "base_image": settings.base_image,
        "builder_image": settings.builder_image,
        "build_args": dict(sorted(settings.build_args.items())),
        "extra_packages": list(settings.extra_packages),
        "features": frozenset() if target.is_minimal else settings.features,
        "split_executable": settings.split_executable,
        "server_module": settings.server_module,
        "server_name": settings.server_name,
        "server_port": settings.server_port,
        "image_name": name_local_image(settings.server_name),
        "members": tree.project.members,
        "source_url": _check_url(tree.project.source_url),
        "spec": None,
        "link_layers": False,
        "archive": version.archive,
        "folder": version.archive.removesuffix(".tar.gz"),
        "revision": version.sha or version.short_sha,
        "dirty": version.dirty,
        "image_version": f"{version.short_sha}-{version.primary_tag}" + ("-dirty" if version.dirty else ""),
        "created": _format_time(version.commit_time),
        "git_ref": tree.ref(version.sha),
        "derived_from": None,
    }


def _check_url(url: str | None) -> str | None:
    """Return the project's URL if it may be in the image's labels."""
    if url and (not url.isprintable() or _USERINFO.search(url)):
        raise LocalError(
            "the source URL in [project.urls] has a control character, a user name or a password",
            "correct it in pyproject.toml",
        )
    return url


def _format_time(commit_time: int | None) -> str | None:
    return None if commit_time is None else datetime.fromtimestamp(commit_time, UTC).isoformat()


def main(this: Run) -> Outcome:
    """Write the Dockerfile for TARGET, or derive it from DOCKERFILE."""
    this.check_folders()
    with this.writing():
        result = render_dockerfile(this.workspace, this.tree, DockerfileRequest.from_run(this), this.ui)
    return Outcome(this.show_path(this.workspace.path / DOCKERFILE), result)


TASK = Task("dockerfile", main, groups=("target", "dockerfile", "server", "templates"))
