"""What a run must not leave behind: changed files, the key in any form, raw control characters."""

from __future__ import annotations

import base64
import contextlib
import os
import stat
import unicodedata
import urllib.parse
import zlib
from typing import TYPE_CHECKING

from tests.ledger import LEDGER

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path


def list_secret_forms(key: str) -> list[bytes]:
    """Return the forms in which a text may contain the key: plain, URL-encoded, base64 at every alignment."""
    raw = key.encode("latin-1")
    forms = {raw, urllib.parse.quote(raw, safe="").encode(), urllib.parse.quote_plus(raw).encode()}
    for shift in range(3):
        # The bytes before and after the key change only the outermost digits.
        whole = base64.b64encode(b"x" * shift + raw)
        forms.add(whole[(shift * 8 + 5) // 6 : len(whole) - (4 if whole.endswith(b"=") else 0)])
    return sorted(forms)


def find_secret(key: str, texts: Mapping[str, bytes], files: Iterable[Path]) -> list[str]:
    """Return the names of the texts and files that contain the key; archives are also searched unpacked."""
    forms = list_secret_forms(key)
    places = list(texts.items())
    for path in files:
        if path.is_file() and not path.is_symlink():
            with contextlib.suppress(PermissionError):
                places += [(str(path), data) for data in _read_plain(path)]
    LEDGER.searched_bytes += sum(len(data) for _, data in places)
    return [place for place, data in places if any(form in data for form in forms)]


def find_controls(data: bytes) -> list[str]:
    """Return the control and formatting characters other than tabs and line feeds."""
    text = data.decode("utf-8", "surrogateescape")
    return [
        char for char in text if char not in "\n\t" and unicodedata.category(char) in {"Cc", "Cf", "Cs", "Zl", "Zp"}
    ]


def list_files(folder: Path, excluded: set[str]) -> dict[str, tuple[int, ...]]:
    """Return what identifies the state of everything below a folder, by relative path.

    Args:
        excluded: Absolute paths that are not entered, unless they are links.
    """
    found: dict[str, tuple[int, ...]] = {}
    start = len(f"{folder}/")
    waiting = [str(folder)]
    while waiting:
        # A folder may also be one that the test itself moves in the meantime.
        with contextlib.suppress(PermissionError, FileNotFoundError), os.scandir(waiting.pop()) as entries:
            for entry in entries:
                if entry.path in excluded and not entry.is_symlink():
                    continue
                try:
                    status = entry.stat(follow_symlinks=False)
                except FileNotFoundError:
                    continue  # the test itself removes files in the meantime
                name = entry.path[start:]
                if stat.S_ISDIR(status.st_mode):
                    found[name] = (status.st_mode,)
                    waiting.append(entry.path)
                else:
                    found[name] = (status.st_mode, status.st_size, status.st_mtime_ns, status.st_ino)
    return found


def _read_plain(path: Path) -> Iterator[bytes]:
    data = path.read_bytes()
    yield data
    # A gzip file may consist of several members.
    while data.startswith(b"\x1f\x8b"):
        unpacker = zlib.decompressobj(31)
        try:
            yield unpacker.decompress(data)
        except zlib.error:
            return
        data = unpacker.unused_data
