"""Errors about what may not be in an archive: the API key, and more than the limit."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from buildkit.archive.sizes import name_largest, read_sizes
from buildkit.display import format_size
from buildkit.errors import LocalError
from buildkit.files import open_regular

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path


def describe_limit(max_bytes: int, source: Path | None = None, files: Sequence[str] = ()) -> LocalError:
    """Return the error for a build context that is too large; it names what is largest."""
    named = f"; {name_largest(files, read_sizes(source, files))}" if source else ""
    return LocalError(
        f"the build context is larger than {format_size(max_bytes)}{named}",
        "leave out what the build does not need with EXCLUDE, or raise MAX_CONTEXT_BYTES",
    )


def describe_secret(secret: bytes, contents: Iterable[tuple[str, Iterable[bytes]]]) -> LocalError:
    """Return the error that names where the secret is, but never what it is.

    Args:
        contents: Files by path, each as lines.
    """
    where = "the name of a file or the target of a link"
    for path, lines in contents:
        line = next((number for number, text in enumerate(lines, 1) if secret in text), None)
        if line is not None:
            where = f"{path}, line {line}"
            break
    return LocalError(f"RUNTIME_API_KEY is in {where}", "remove it from there, change the key, and pack again")


def read_lines(source: Path, files: Iterable[str]) -> Iterator[tuple[str, Iterable[bytes]]]:
    """Yield the regular ones among `files`, each with its lines."""
    for path in files:
        if not os.path.islink(source / path):
            with os.fdopen(open_regular(source / path), "rb") as file:
                yield path, file
