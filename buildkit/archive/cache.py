"""What the last archive was made from, so that a run knows which files it need not read again."""

from __future__ import annotations

import hashlib
import json
import os
from typing import TYPE_CHECKING, NamedTuple

from buildkit.archive.writer import SourcePart
from buildkit.errors import LocalError
from buildkit.models import BuildContext
from buildkit.source.fingerprint import take_fingerprint
from buildkit.workspace import STAT_CACHE

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from buildkit.archive.stream import PackingOptions
    from buildkit.source.fingerprint import StatFingerprint
    from buildkit.source.selection import SelectedFiles
    from buildkit.workspace import Workspace


_BATCH = 1024


class CachedContext(NamedTuple):
    """A packed context, and the keys that tell later whether it is still up to date.

    Attributes:
        source_key: Digest of the stat data of the source's files, the options and the archive; None if a file changed
            so shortly before it was read that its stat data cannot tell.
        files_key: As `source_key`, without the options and the archive.
        generated_key: Digest of the generated files.
        source: The part of the archive that `source_key` is about.
        different: Mode and ID of each file that was not as it was committed, by path.
        warnings: What was found in the source.
    """

    context: BuildContext
    source_key: str | None
    files_key: str | None
    generated_key: str
    source: SourcePart
    different: dict[str, str]
    warnings: list[str]


def load_cached(workspace: Workspace) -> CachedContext | None:
    """Return the last build context, or None if it is not known exactly; then everything is read again."""
    try:
        context = workspace.load(BuildContext, trace=False)
        record = json.loads(workspace.read(STAT_CACHE))
        if record["context"] != workspace.digest("context.json"):
            return None
        archive_bytes, context_bytes = record["source"]
        source = SourcePart(int(archive_bytes), int(context_bytes))
        different = {str(path): str(found) for path, found in record["different"].items()}
        warnings = [str(warning) for warning in record["warnings"]]
        keys = record["source_key"], record["files_key"], str(record["generated_key"])
        return CachedContext(context, *keys, source, different, warnings)
    except (LocalError, OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None


def save_cached(workspace: Workspace, cached: CachedContext) -> None:
    """Keep what `load_cached` returns; `context.json` has been saved already.

    Raises:
        LocalError: It cannot be written.
    """
    record = cached._asdict() | {"context": workspace.digest("context.json")}
    workspace.write(STAT_CACHE, json.dumps(record).encode("ascii"))


def make_files_key(fingerprint: StatFingerprint, selected: SelectedFiles) -> str:
    """Return the digest of the source's files and of what they are compared with."""
    digest = hashlib.sha256(fingerprint.hexdigest().encode("ascii"))
    for start in range(0, len(selected.files), _BATCH):  # the IDs of 100,000 files, joined, would take 5 MB
        committed = (selected.committed.get(path, "") for path in selected.files[start : start + _BATCH])
        digest.update("\0".join(["", *committed]).encode("ascii"))
    return digest.hexdigest()


def make_source_key(files_key: str, options: PackingOptions, archive: Path) -> str | None:
    """Return the digest of the source's files, the options and the archive as they are now; None without archive."""
    try:
        found = os.lstat(archive)
    except OSError:
        return None
    parts = [
        files_key,
        hashlib.sha256(b"\0".join(options.secrets)).hexdigest(),
        [options.mtime, options.compressor.describe(), options.max_bytes],
        [found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino, found.st_mode],
    ]
    return hashlib.sha256(json.dumps(parts).encode("ascii")).hexdigest()


def make_generated_key(generated: Mapping[str, bytes]) -> str:
    """Return the digest of the generated files."""
    digests = {path: hashlib.sha256(data).hexdigest() for path, data in generated.items()}
    return hashlib.sha256(json.dumps(digests, sort_keys=True).encode("ascii")).hexdigest()


def match_source(
    cached: CachedContext, source: Path, selected: SelectedFiles, options: PackingOptions, archive: Path
) -> StatFingerprint | None:
    """Return the fingerprint of the files if packing them would certainly give the cached source part again.

    Raises:
        LocalError: A link leaves the tree.
    """
    if cached.source_key is None:
        return None
    fingerprint = take_fingerprint(source, selected.files)
    if fingerprint is None:
        return None
    key = make_source_key(make_files_key(fingerprint, selected), options, archive)
    return fingerprint if key == cached.source_key else None


def recall_different(workspace: Workspace, source: Path, selected: SelectedFiles) -> dict[str, str] | None:
    """Return which files were not as they were committed when they were last packed, if none has changed since."""
    cached = load_cached(workspace)
    if cached is None or cached.files_key is None:
        return None
    fingerprint = take_fingerprint(source, selected.files)
    if fingerprint is None or make_files_key(fingerprint, selected) != cached.files_key:
        return None
    return cached.different
