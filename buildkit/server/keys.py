"""The keys that give access to the server, and the signatures of its web page."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import os
import re
import secrets
import time
from typing import TYPE_CHECKING

from buildkit import files
from buildkit.errors import SettingError

if TYPE_CHECKING:
    from pathlib import Path

    from buildkit.secret import ApiKey

EXTRA_OWNER = "RUNTIME_API_KEY"
_KEY_BYTES = 32
_MAX_FILE_BYTES = 10_000_000
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.@-]{0,63}")


class Keys:
    """The keys in a folder. The file `keys` has a line for each: its name and the sha256 of the key.

    To revoke a key, delete its line; a running server notices.

    Args:
        extra: A key that is accepted in addition.
    """

    def __init__(self, folder: Path, extra: ApiKey | None) -> None:
        folder.mkdir(mode=0o700, exist_ok=True)
        self._path = folder / "keys"
        self._secret_path = folder / "secret"
        self._extra = _digest(extra.reveal()) if extra and extra.reveal() else None

    def create(self, name: str) -> str:
        """Return a new key, which is shown once and stored nowhere.

        Raises:
            SettingError: The name is invalid, or taken.
            OSError: The key cannot be stored.
        """
        if not _NAME.fullmatch(name):
            raise SettingError(f"{name!r} is not a name for a key", "use up to 64 of A-Z a-z 0-9 _ . @ -")
        if name in self.list_names() or name == EXTRA_OWNER:
            raise SettingError(
                f"there is a key {name!r} already", f"use another name, or delete its line in {self._path}"
            )
        key = f"rb_{secrets.token_urlsafe(_KEY_BYTES)}"
        _write_private(self._path, f"{name} {_digest(key)}\n".encode())
        return key

    def list_names(self) -> list[str]:
        """Return the names of the keys in the folder."""
        return [name for name, _ in self._load()]

    def check(self, text: str) -> str | None:
        """Return the owner of a key, or None if there is no such key; takes the same time for all keys."""
        digest, owner = _digest(text), None
        for name, known in self._load():
            if hmac.compare_digest(known, digest):
                owner = name
        if self._extra and hmac.compare_digest(self._extra, digest):
            owner = owner or EXTRA_OWNER
        return owner

    def has_owner(self, name: str) -> bool:
        """Return whether a key of that name is still accepted."""
        return name in self.list_names() or (name == EXTRA_OWNER and self._extra is not None)

    def sign(self, purpose: str, value: str, lifetime_s: float) -> str:
        """Return a token that `verify` accepts for that purpose and that long; it is safe in a cookie and in a form."""
        expires = str(int(time.time() + lifetime_s))
        payload = base64.urlsafe_b64encode(value.encode()).decode().rstrip("=")
        return f"{payload}.{expires}.{self._seal(purpose, payload, expires)}"

    def verify(self, purpose: str, token: str) -> str | None:
        """Return the value that a token was made for, or None if it is forged, expired or for another purpose."""
        payload, _, rest = token.partition(".")
        expires, _, seal = rest.partition(".")
        if not hmac.compare_digest(self._seal(purpose, payload, expires).encode(), seal.encode("utf-8", "replace")):
            return None
        try:
            value = base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)).decode()
            return value if int(expires) > time.time() else None
        except (binascii.Error, ValueError):
            return None

    def _seal(self, *parts: str) -> str:
        return hmac.new(self._load_secret(), "\0".join(parts).encode("utf-8", "replace"), hashlib.sha256).hexdigest()

    def _load_secret(self) -> bytes:
        try:
            secret = files.read_bounded(self._secret_path, _KEY_BYTES)
        except FileNotFoundError:
            secret = b""
        if len(secret) < _KEY_BYTES:
            _write_private(self._secret_path, secrets.token_bytes(_KEY_BYTES))
            secret = files.read_bounded(self._secret_path, _KEY_BYTES)
        return secret

    def _load(self) -> list[tuple[str, str]]:
        try:
            lines = files.read_bounded(self._path, _MAX_FILE_BYTES).decode("utf-8", "replace").splitlines()
        except FileNotFoundError:
            return []
        return [(words[0], words[1]) for line in lines if len(words := line.split()) == 2 and words[1].isascii()]  # noqa: PLR2004 - name and digest


def _write_private(path: Path, data: bytes) -> None:
    """Append to a file that only its owner can read, in one write, so that two processes do not disturb each other."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(path, flags, 0o600)
    try:
        os.write(descriptor, data)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _digest(key: str) -> str:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()
