"""Recipes: what is the same for many images. One Dockerfile and one packed context, in which only the base differs.

A recipe is rendered and packed once, with a placeholder in the place of the base image. An engine builds it with
`--build-arg BASE_IMAGE=…`; for a Runtime API, which takes no build arguments, `write_image` puts the base image into a
copy of the generated files, and only those are compressed again.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING

from buildkit.errors import LocalError, run
from buildkit.generated import read_generated
from buildkit.models import PROGRAMS, BuildContext, Dockerfile
from buildkit.reference import Reference
from buildkit.tasks.context import pack_context
from buildkit.tasks.dockerfile import render_dockerfile
from buildkit.tasks.version import describe_version
from buildkit.workspace import DOCKERFILE, INSTRUCTIONS, RECIPES, STAT_CACHE

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from buildkit.archive.writer import PackedArchive, SourcePart
    from buildkit.models import Version
    from buildkit.settings import Settings
    from buildkit.source.tree import SourceTree
    from buildkit.tasks.dockerfile import DockerfileRequest
    from buildkit.ui import Ui
    from buildkit.workspace import Workspace

BASE_IMAGE = "BASE_IMAGE"
PLACEHOLDER = Reference("runtime-build.invalid", "base-image", None, None)
_KEY_DIGITS = 12


@dataclass(frozen=True)
class Recipe:
    """A context for any base image, packed in a workspace of its own.

    Attributes:
        source: The part of its archive that every image has.
    """

    workspace: Workspace
    settings: Settings
    version: Version
    dockerfile: Dockerfile
    context: BuildContext
    generated: Mapping[str, bytes]
    source: SourcePart

    def make_key(self, base: Reference, digest: str | None) -> str:
        """Return what tells the contents of an image from those of every other.

        Args:
            digest: Of the base image; its name alone counts if it is not known.
        """
        parts = [self.context.context_sha256, str(self.settings.target), str(base), digest or ""]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:_KEY_DIGITS]

    def fill(self, base: Reference) -> dict[str, bytes]:
        """Return the generated files for one base image, by the path that each is packed under."""
        placeholder, name = str(PLACEHOLDER).encode(), str(base).encode()
        return {path: data.replace(placeholder, name) for path, data in self.generated.items()}


def make_recipes(
    parent: Workspace, tree: SourceTree, wanted: Iterable[Settings], request: DockerfileRequest, ui: Ui
) -> dict[str, Recipe]:
    """Return a recipe for each of the wanted settings that differ, by `identify` of the settings.

    Args:
        request: Says where the project's own settings came from.

    Raises:
        SettingError: A template is wrong, or the source's Dockerfile does not have what the settings name.
        LocalError: The source cannot be packed.
    """
    recipes: dict[str, Recipe] = {}
    first: Recipe | None = None
    for settings in wanted:
        identity = identify(settings)
        if identity in recipes:
            continue
        workspace = parent.child(RECIPES).child(str(len(recipes) + 1))
        neutral = replace(settings, base_image=PLACEHOLDER)
        own = request._replace(settings=neutral, origins={**request.origins, BASE_IMAGE: "images"})
        with workspace.writing():
            version = _repeat_version(workspace, first) if first else describe_version(workspace, tree, settings, ui)
            dockerfile = render_dockerfile(workspace, tree, own, ui)
            generated = read_generated(workspace)
            if first:
                context, source = copy_source(first, workspace, generated, ui), first.source
            else:
                context, source = pack_context(workspace, tree, settings, ui), _find_source(workspace)
        recipes[identity] = Recipe(workspace, neutral, version, dockerfile, context, generated, source)
        first = first or recipes[identity]
    return recipes


def identify(settings: Settings) -> str:
    """Return a text that is the same for settings that give the same recipe."""
    values = {item.name: getattr(settings, item.name) for item in fields(settings) if item.name != "base_image"}
    return repr({name: sorted(value) if isinstance(value, frozenset) else value for name, value in values.items()})


def write_image(recipe: Recipe, workspace: Workspace, base: Reference) -> dict[str, bytes]:
    """Leave in an image's workspace what `version` and `dockerfile` leave, and return the generated files."""
    generated = recipe.fill(base)
    workspace.save(recipe.version)
    for path, data in generated.items():
        name = path.rpartition("/")[2]
        if workspace.digest(name) != hashlib.sha256(data).hexdigest():
            workspace.write(name, data)
    dockerfile = replace(
        recipe.dockerfile,
        base_image=str(base),
        dockerfile_sha256=hashlib.sha256(generated[DOCKERFILE]).hexdigest(),
        made_from=workspace.digests("version.json"),
    )
    workspace.save(dockerfile)
    return generated


def copy_source(recipe: Recipe, workspace: Workspace, generated: Mapping[str, bytes], ui: Ui) -> BuildContext:
    """Return the context of a workspace, saved: the recipe's packed source, and generated files of its own.

    Raises:
        LocalError: The recipe's archive has changed, or the new one cannot be written.
    """
    from buildkit.archive.writer import ArchiveWriter
    from buildkit.packing import choose_options

    version, options = recipe.version, choose_options(recipe.version, recipe.settings, ui)
    try:
        with (
            workspace.replacing(version.archive) as file,
            os.fdopen(recipe.workspace.open(recipe.context.archive), "rb") as earlier,
        ):
            writer = ArchiveWriter(file, options)
            writer.copy_source(earlier, recipe.source)
            packed = writer.finish(dict(generated))
    except OSError as error:
        raise LocalError(f"cannot copy {recipe.workspace.show(version.archive)}: {error}", "run it again") from error
    context = _describe(recipe, packed, generated)
    made_from = workspace.digests("version.json", "dockerfile.json", DOCKERFILE, INSTRUCTIONS, *PROGRAMS)
    context = replace(context, made_from=made_from)
    workspace.save(context)
    return context


def _repeat_version(workspace: Workspace, first: Recipe) -> Version:
    workspace.save(first.version)
    return first.version


def _find_source(workspace: Workspace) -> SourcePart:
    """Return which part of the archive that was just packed is the source."""
    from buildkit.archive.cache import load_cached

    cached = load_cached(workspace)
    if cached is None:
        raise LocalError(f"{workspace.show(STAT_CACHE)} is missing", f"run {run('images')} again")
    return cached.source


def _describe(recipe: Recipe, packed: PackedArchive, generated: Mapping[str, bytes]) -> BuildContext:
    return replace(
        recipe.context,
        archive_sha256=packed.archive_sha256,
        archive_bytes=packed.archive_bytes,
        context_sha256=packed.context_sha256,
        context_bytes=packed.context_bytes,
        files=recipe.context.files - len(recipe.generated) + len(generated),
    )
