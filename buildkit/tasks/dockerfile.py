"""Task `dockerfile`: a Dockerfile that needs no target and no build arguments, its programs, and instructions."""

from __future__ import annotations

import hashlib
import re
from typing import TYPE_CHECKING, Any, NamedTuple

from buildkit.errors import LocalError, run
from buildkit.generated import find_programs
from buildkit.image import describe_image
from buildkit.models import PROGRAMS, Dockerfile, Version
from buildkit.task import Outcome, Run, Task
from buildkit.workspace import DOCKERFILE, INSTRUCTIONS

if TYPE_CHECKING:
    from pathlib import Path

    from buildkit.settings import Settings
    from buildkit.source.tree import SourceTree
    from buildkit.ui import Ui
    from buildkit.workspace import Workspace

_COPIED_PATH = re.compile(r"[\w.@+ -][\w.@+ /-]*")
_ONLY_FOR_TEMPLATE = ("BUILD_PACKAGES", "EXTRA_PACKAGES", "FEATURES", "REQUIREMENTS", "SERVER_COMMAND")
# What PyInstaller is given if the source has no spec.
_ENTRY, _SPEC = "server.py", "server.spec"


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
    """The text of a Dockerfile, those of the programs that depend on the settings, and what the instructions say."""

    text: str
    base_image: str
    programs: dict[str, str]
    derived_from: str | None = None


def render_dockerfile(workspace: Workspace, tree: SourceTree, request: DockerfileRequest, ui: Ui) -> Dockerfile:
    """Return what `dockerfile.json` says; the Dockerfile, its programs and the instructions are next to it.

    The same source and settings give the same bytes: nothing depends on the clock.

    Raises:
        SettingError: A template is wrong, or DOCKERFILE does not have what the settings name.
        LocalError: The target needs something that the source does not have.
    """
    from buildkit.template import render_template

    version = workspace.load(Version)
    settings = request.settings
    values = describe_image(settings, version, tree.ref(version.sha))
    rendered = _derive(tree, request, version, ui) if settings.dockerfile else _render(tree, request, version, values)
    described = values | {"base_image": rendered.base_image, "derived_from": rendered.derived_from}
    instructions = render_template("BUILD_INSTRUCTIONS.md.j2", described, request.template_dir)
    _write_programs(workspace, rendered, request.template_dir)
    if _SPEC in rendered.programs:
        ui.report(f"the source has no PyInstaller spec; one is generated: {workspace.show(_SPEC)}")
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


def _write_programs(workspace: Workspace, rendered: _Rendered, template_dir: Path | None) -> None:
    """Write the programs that the Dockerfile copies, and no others."""
    from buildkit.template import read_program

    used = find_programs(rendered.text)
    programs = {name: rendered.programs.get(name) or read_program(name, template_dir) for name in used}
    for name in PROGRAMS:
        if name in programs:
            text = programs[name]
            workspace.write(name, text.encode() if isinstance(text, str) else text)
        else:
            workspace.remove(name)


def _render(tree: SourceTree, request: DockerfileRequest, version: Version, values: dict[str, Any]) -> _Rendered:
    """Return the Dockerfile from our template, or from the one that overrides it."""
    from buildkit.installation import describe_installation
    from buildkit.template import render_template

    settings, template_dir = request.settings, request.template_dir
    values = values | describe_installation(tree, version) | {"link_layers": request.link_layers}
    spec = tree.find_spec(settings.build_args.get("PYINSTALLER_SPEC")) if settings.target.is_binary else None
    is_generated = settings.target.is_binary and spec is None
    if is_generated and values["start"].program == "python" and values["start"].module is None:
        raise LocalError(
            f"no executable can be made of SERVER_COMMAND, which runs a script: {values['start']}",
            "set TARGET=source, or BUILD_ARGS=PYINSTALLER_SPEC=path/of/a.spec in the source",
        )
    for path in (*values["members"], *values["dependencies"].files, *filter(None, [spec])):
        if not _COPIED_PATH.fullmatch(path):
            raise LocalError(
                f"a path cannot be used in a Dockerfile: {path!r}", "rename it, using only letters, digits and . _ -"
            )
    values |= {"spec": f"/opt/{_SPEC}" if is_generated else spec, "spec_is_generated": is_generated}
    text = render_template("Dockerfile.j2", values, template_dir)
    names = [_ENTRY, _SPEC] if is_generated else []
    programs = {name: render_template(f"{name}.j2", values, template_dir) for name in names}
    return _Rendered(text, str(settings.base_image), programs)


def _derive(tree: SourceTree, request: DockerfileRequest, version: Version, ui: Ui) -> _Rendered:
    """Return the Dockerfile from the source's own, which DOCKERFILE names."""
    from buildkit.contract import GIT_REF, GIT_SHA
    from buildkit.derived import IMAGES, derive_dockerfile, find_unpacked, read_dockerfile

    settings = request.settings
    path = settings.dockerfile or ""
    values = {**settings.build_args, GIT_SHA: version.sha or "unknown", GIT_REF: tree.ref(version.sha)}
    values |= {name: str(getattr(settings, name.lower())) for name in IMAGES if request.has(name)}
    derived = derive_dockerfile(read_dockerfile(tree.path, path), path, settings.target or None, values, ui)
    if ignored := [name for name in _ONLY_FOR_TEMPLATE if request.has(name)]:
        ui.warn(f"ignored because DOCKERFILE is set: {', '.join(ignored)}")
    if missing := find_unpacked(derived.text, [*tree.select().files, DOCKERFILE, INSTRUCTIONS]):
        ui.warn(
            f"{path} copies what is not in the build context: {', '.join(missing)};"
            f" add it to INCLUDE, or run {run('context', '--explain', missing[0])}"
        )
    return _Rendered(derived.text, derived.base_image, {}, path)


def main(this: Run) -> Outcome:
    """Write the Dockerfile for TARGET, or derive it from DOCKERFILE."""
    from buildkit.checks import find_unlocked

    this.check_folders()
    with this.writing():
        if not this.settings.dockerfile and (problem := find_unlocked(this.tree)):
            this.ui.warn(f"{problem.message}; {problem.fix}")
        result = render_dockerfile(this.workspace, this.tree, DockerfileRequest.from_run(this), this.ui)
    return Outcome(this.show_path(this.workspace.path / DOCKERFILE), result)


TASK = Task("dockerfile", main, groups=("target", "dockerfile", "server", "templates"))
