"""Step `context`: the selected files and the Dockerfile, packed into the archive; or the proof that it is still right."""

from __future__ import annotations

import hashlib
import json
import os
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from buildkit.archive import PackedArchive, SecretFound, digest_stats, pack_archive
from buildkit.atomic import open_replacing
from buildkit.display import format_size
from buildkit.errors import FileChanged, FileVanished, LocalError
from buildkit.models import BuildContext

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from buildkit.compressor import Compressor
    from buildkit.selection import SelectedFiles

# Where neither a commit nor SOURCE_DATE_EPOCH gives a time: the first that a zip file, and so a wheel, can hold.
_NO_TIME = 315532800
# A file changed less than this before it was read may change again within one tick of the file system's clock, unseen.
_RACY_NS = 2_000_000_000
_MAX_NAMED = 5
# Shorter keys stand in every other file by chance.
MIN_SECRET_LENGTH = 8


@dataclass(frozen=True)
class PackedContext:
    """What was packed, and what later proves that it still holds.

    Attributes:
        proof: Hex digest over the stat data of everything packed, the settings and the archive; None where a file
            changed so shortly before that its stat data proves nothing.
    """

    context: BuildContext
    proof: str | None


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
        previous: What lies at `archive` now; kept without reading the files when its proof still holds.

    Raises:
        LocalError: The tree cannot be packed as it is. What lay at `archive` before is untouched.
    """
    again = {FileVanished: 1, FileChanged: 3}
    while True:
        selected = select()
        try:
            return _keep_or_pack(
                source,
                selected.files,
                generated,
                archive,
                mtime=_NO_TIME if mtime is None else mtime,
                compressor=compressor,
                secret=secret if len(secret) >= MIN_SECRET_LENGTH else "",
                max_bytes=max_bytes,
                previous=previous,
                progress=progress,
            )
        except FileChanged as error:
            if not again[type(error)]:
                raise
            again[type(error)] -= 1
            warn(f"{error.message}; reading the tree again")


def list_sizes(source: Path, files: Sequence[str]) -> list[tuple[int, str]]:
    """Return size in bytes and path of each file, largest first."""
    return sorted(((os.lstat(source / path).st_size, path) for path in files), key=lambda pair: (-pair[0], pair[1]))


def name_largest(source: Path, files: Sequence[str]) -> str:
    """Return the largest folders (two levels deep) and files of a context, for people."""
    sizes = list_sizes(source, files)
    folders: dict[str, int] = {}
    for size, path in sizes:
        folder = "/".join(path.split("/")[:-1][:2]) or "."
        folders[folder] = folders.get(folder, 0) + size
    largest = sorted(folders.items(), key=lambda pair: -pair[1])[:_MAX_NAMED]
    return (
        "largest folders: "
        + ", ".join(f"{folder}/ {format_size(size)}" for folder, size in largest)
        + "; largest files: "
        + ", ".join(f"{path} {format_size(size)}" for size, path in sizes[:_MAX_NAMED])
    )


def _keep_or_pack(
    source: Path,
    files: Sequence[str],
    generated: Mapping[str, bytes],
    archive: Path,
    *,
    mtime: int,
    compressor: Compressor,
    secret: str,
    max_bytes: int,
    previous: PackedContext | None,
    progress: Callable[[int], None],
) -> PackedContext:
    settings = [
        mtime,
        compressor.describe(),
        {name: hashlib.sha256(data).hexdigest() for name, data in generated.items()},
    ]
    settings += [hashlib.sha256(secret.encode()).hexdigest(), max_bytes]
    if previous and previous.proof and previous.context.archive == archive.name:
        stats = digest_stats(source, files)
        if stats and previous.proof == _prove(stats, settings, archive):
            return previous

    def watch(size_bytes: int) -> None:
        if size_bytes > max_bytes:
            raise LocalError(
                f"the build context is larger than {format_size(max_bytes)}; {name_largest(source, files)}",
                "leave out what the build does not need with EXCLUDE, or raise MAX_CONTEXT_BYTES",
            )
        progress(size_bytes)

    started_ns = time.time_ns()
    try:
        with open_replacing(archive) as file:
            packed = pack_archive(
                source,
                files,
                generated,
                file,
                mtime=mtime,
                compressor=compressor,
                secret=secret.encode("latin-1"),
                progress=watch,
            )
    except SecretFound:
        raise _locate_secret(source, files, secret) from None
    racy = packed.newest_ns > started_ns - _RACY_NS
    proof = None if racy else _prove(packed.stat_sha256, settings, archive)
    return PackedContext(_describe(packed, archive.name, len(files) + len(generated), compressor), proof)


def _describe(packed: PackedArchive, archive: str, files: int, compressor: Compressor) -> BuildContext:
    return BuildContext(
        archive=archive,
        archive_sha256=packed.archive_sha256,
        archive_bytes=packed.archive_bytes,
        context_sha256=packed.context_sha256,
        context_bytes=packed.context_bytes,
        files=files,
        compressor=compressor.describe(),
    )


def _prove(stats: str, settings: Sequence[object], archive: Path) -> str | None:
    try:
        found = os.stat(archive)
    except OSError:
        return None
    facts = [stats, settings, found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino]
    return hashlib.sha256(json.dumps(facts).encode("ascii")).hexdigest()


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
