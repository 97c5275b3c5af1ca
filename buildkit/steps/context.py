"""Step `context`: selected files and Dockerfile, packed into the archive; or the proof that it is still right."""

from __future__ import annotations

import hashlib
import json
import os
import time
from typing import TYPE_CHECKING, NamedTuple

from buildkit.archive.facts import gather_facts
from buildkit.archive.sizes import name_largest, read_sizes
from buildkit.archive.stream import SecretFound
from buildkit.archive.writer import PackedArchive, pack_archive
from buildkit.display import format_size
from buildkit.errors import FileChanged, FileVanished, LocalError
from buildkit.models import BuildContext
from buildkit.output.atomic import open_replacing

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from pathlib import Path

    from buildkit.archive.compressor import Compressor
    from buildkit.archive.facts import StatFacts
    from buildkit.source.selection import SelectedFiles

# Where neither a commit nor SOURCE_DATE_EPOCH gives a time: the first that a zip file, and so a wheel, can hold.
_NO_TIME = 315532800
# A file changed less than this before it was read may change again within one tick of the file system's clock, unseen.
_RACY_NS = 2_000_000_000
_MAX_NAMED = 5
# Shorter keys stand in every other file by chance.
MIN_SECRET_LENGTH = 8


class PackedContext(NamedTuple):
    """What was packed, and what later proves that it still holds.

    Attributes:
        proof: Hex digest over the stat data of everything packed, the settings and the archive; None where a file
            changed so shortly before that its stat data proves nothing.
    """

    context: BuildContext
    proof: str | None


class _Recipe(NamedTuple):
    """What decides, besides the files, whether there may be an archive and what is in it."""

    source: Path
    generated: Mapping[str, bytes]
    archive: Path
    mtime: int
    compressor: Compressor
    secret: str
    max_bytes: int

    def prove(self, facts: StatFacts) -> str | None:
        """Return the digest of files, recipe and archive as they are now; None where there is no archive."""
        try:
            found = os.stat(self.archive)
        except OSError:
            return None
        made = {name: hashlib.sha256(data).hexdigest() for name, data in self.generated.items()}
        secret = hashlib.sha256(self.secret.encode()).hexdigest()
        recipe = [self.archive.name, self.mtime, self.compressor.describe(), made, secret, self.max_bytes]
        archive = [found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino]
        return hashlib.sha256(json.dumps([facts.hexdigest(), recipe, archive]).encode("ascii")).hexdigest()


def pack_context(
    source: Path,
    select: Callable[[], SelectedFiles],
    generated: Mapping[str, bytes],
    archive: Path,
    *,
    mtime: int | None,
    compressor: Compressor,
    secret: str,
    max_bytes: int,
    warn_bytes: int,
    dirty: bool | None,
    previous: PackedContext | None,
    progress: Callable[[int], None],
    warn: Callable[[str], None],
) -> PackedContext:
    """Return the build context that lies at `archive` afterwards.

    Args:
        select: Lists the tree; called again where it changed meanwhile.
        generated: Files that are packed besides, by path.
        mtime: Of every entry, in seconds since the epoch.
        secret: May not be in the archive; looked for from 8 characters on.
        max_bytes: Of the uncompressed tar.
        warn_bytes: Of the uncompressed tar; above it the largest folders are named.
        dirty: Whether something differs from the commit, as the version says; None where there is no commit.
        previous: What lies at `archive` now; kept without reading the files when its proof still holds.

    Raises:
        LocalError: The tree cannot be packed as it is. What lay at `archive` before is untouched.
    """
    looked_for = secret if len(secret) >= MIN_SECRET_LENGTH else ""
    time_s = _NO_TIME if mtime is None else mtime
    recipe = _Recipe(source, generated, archive, time_s, compressor, looked_for, max_bytes)
    again = {FileVanished: 1, FileChanged: 3}
    warned: set[str] = set()
    while True:
        selected = select()
        _refuse_other_version(selected, dirty=dirty)
        for warning in selected.warnings:
            if warning not in warned:
                warn(warning)
        warned.update(selected.warnings)
        try:
            if previous and _still_holds(previous, recipe, selected.files):
                return previous
            packed, sizes = _pack(recipe, selected.files, progress)
        except FileChanged as error:
            if not again[type(error)]:
                raise
            again[type(error)] -= 1
            warn(f"{error.message}; reading the tree again")
        else:
            if packed.context.context_bytes > warn_bytes:
                warn(name_largest(selected.files, sizes))
            return packed


def _refuse_other_version(selected: SelectedFiles, *, dirty: bool | None) -> None:
    """Stop where a commit's name would be put on something else, or something else's on a commit."""
    if dirty is None or dirty is bool(selected.changed):
        return
    message = "version.json tells of files that differ from the commit, and now none does"
    if selected.changed:
        named = ", ".join(selected.changed[:_MAX_NAMED]) + (" …" if len(selected.changed) > _MAX_NAMED else "")
        message = f"version.json tells of a clean checkout, but {named} differs from the commit"
    raise LocalError(message, "run `invoke version` and `invoke dockerfile` again")


def _still_holds(previous: PackedContext, recipe: _Recipe, files: Sequence[str]) -> bool:
    """Return whether it is certain, without reading a file, that packing would give the same again."""
    if previous.proof is None or previous.context.archive != recipe.archive.name:
        return False
    facts = gather_facts(recipe.source, files)
    return facts is not None and recipe.prove(facts) == previous.proof


def _pack(
    recipe: _Recipe, files: Sequence[str], progress: Callable[[int], None]
) -> tuple[PackedContext, Iterable[int]]:
    """Return what was packed, and the size of each file."""

    def check_size(size_bytes: int) -> None:
        if size_bytes > recipe.max_bytes:
            raise LocalError(
                f"the build context is larger than {format_size(recipe.max_bytes)};"
                f" {name_largest(files, read_sizes(recipe.source, files))}",
                "leave out what the build does not need with EXCLUDE, or raise MAX_CONTEXT_BYTES",
            )

    def watch(size_bytes: int) -> None:
        check_size(size_bytes)
        progress(size_bytes)

    started_ns = time.time_ns()
    try:
        with open_replacing(recipe.archive) as file:
            packed = pack_archive(
                recipe.source,
                files,
                recipe.generated,
                file,
                mtime=recipe.mtime,
                compressor=recipe.compressor,
                secret=recipe.secret.encode("latin-1"),
                progress=watch,
                check_size=check_size,
            )
    except SecretFound:
        raise _locate_secret(recipe.source, files, recipe.secret) from None
    racy = packed.facts.newest_ns > started_ns - _RACY_NS
    context = _describe(packed, recipe, len(files) + len(recipe.generated))
    return PackedContext(context, None if racy else recipe.prove(packed.facts)), packed.facts.sizes


def _describe(packed: PackedArchive, recipe: _Recipe, files: int) -> BuildContext:
    return BuildContext(
        archive=recipe.archive.name,
        archive_sha256=packed.archive_sha256,
        archive_bytes=packed.archive_bytes,
        context_sha256=packed.context_sha256,
        context_bytes=packed.context_bytes,
        files=files,
        compressor=recipe.compressor.describe(),
    )


def _locate_secret(source: Path, files: Sequence[str], secret: str) -> LocalError:
    """Return the error that says where the secret stands, never what it is."""
    needle = secret.encode("latin-1")
    where = "the name of a file or in the target of a link"
    for path in files:
        if os.path.islink(source / path):
            continue
        with (source / path).open("rb") as file:
            if (line := next((number for number, text in enumerate(file, 1) if needle in text), None)) is not None:
                where = f"{path}, line {line}"
                break
    return LocalError(f"RUNTIME_API_KEY is in {where}", "take it out of the source, change the key, and pack again")
