"""What was found in an archive that should not be there: the API key, more than the limit, private keys."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

from buildkit.archive.sizes import name_largest, read_sizes
from buildkit.display import format_size
from buildkit.errors import LocalError
from buildkit.source.folders import SourceFolders

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

_PRIVATE_KEY = re.compile(rb"-----BEGIN (?:[A-Z0-9]+ )*PRIVATE KEY(?: BLOCK)?-----")
_MAX_NAMED = 10


def describe_limit(max_bytes: int, source: Path | None = None, files: Sequence[str] = ()) -> LocalError:
    """Return the error for a build context that is too large; it names what is largest."""
    named = f"; {name_largest(files, read_sizes(source, files))}" if source else ""
    return LocalError(
        f"the build context is larger than {format_size(max_bytes)}{named}",
        "leave out what the build does not need with EXCLUDE, or raise MAX_CONTEXT_BYTES",
    )


def describe_secret(secrets: Sequence[bytes], contents: Iterable[tuple[str, Iterable[bytes]]]) -> LocalError:
    """Return the error that names where a secret is, but never what it is.

    Args:
        contents: Files by path, each as lines.
    """
    any_secret = re.compile(b"|".join(re.escape(secret) for secret in secrets))
    where = "the name of a file or the target of a link"
    for path, lines in contents:
        line = _find_line(lines, any_secret)
        if line is not None:
            where = f"{path}, line {line}"
            break
    return LocalError(f"RUNTIME_API_KEY is in {where}", "remove it from there, change the key, and pack again")


def describe_private_keys(source: Path, files: Iterable[str]) -> list[str]:
    """Return a warning for each of the files that contains a private key block."""
    found = [(path, line) for path, lines in read_lines(source, files) if (line := _find_line(lines, _PRIVATE_KEY))]
    warnings = [f"a private key is packed: {path}, line {line}" for path, line in found[:_MAX_NAMED]]
    return warnings + [f"and {len(found) - _MAX_NAMED} more private keys"] * (len(found) > _MAX_NAMED)


def read_lines(source: Path, files: Iterable[str]) -> Iterator[tuple[str, Iterable[bytes]]]:
    """Yield the regular ones among `files`, each with its lines."""
    with SourceFolders(source) as folders:
        for path in files:
            try:
                descriptor = folders.open(path)
            except OSError:
                continue  # a link, or it is gone by now
            with os.fdopen(descriptor, "rb") as file:
                yield path, file


def _find_line(lines: Iterable[bytes], pattern: re.Pattern[bytes]) -> int | None:
    return next((number for number, line in enumerate(lines, 1) if pattern.search(line)), None)
