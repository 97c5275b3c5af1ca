"""Keys and signatures of the server."""

from __future__ import annotations

import stat
from typing import TYPE_CHECKING

import pytest

from buildkit.errors import SettingError
from buildkit.secret import ApiKey
from buildkit.server.keys import EXTRA_OWNER, Keys

if TYPE_CHECKING:
    from pathlib import Path


def test_a_key_is_accepted_and_not_stored(tmp_path: Path) -> None:
    keys = Keys(tmp_path / "keys", None)
    first, second = keys.create("first"), Keys(tmp_path / "keys", None).create("second")
    assert first != second
    assert len(first) > 43
    assert [keys.check(text) for text in (first, second, first[:-1], "", "ü", "\udcff")] == [
        "first",
        "second",
        *[None] * 4,
    ]
    assert keys.list_names() == ["first", "second"]
    (path,) = (tmp_path / "keys").iterdir()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert first not in path.read_text()


def test_a_key_is_revoked_by_deleting_its_line(tmp_path: Path) -> None:
    keys = Keys(tmp_path / "keys", None)
    key = keys.create("first")
    assert keys.has_owner("first")
    (tmp_path / "keys" / "keys").write_text("# none\n")
    assert keys.check(key) is None
    assert not keys.has_owner("first")


def test_the_extra_key_is_accepted(tmp_path: Path) -> None:
    keys = Keys(tmp_path / "keys", ApiKey("my own key"))
    assert keys.check("my own key") == EXTRA_OWNER
    assert keys.has_owner(EXTRA_OWNER)
    assert Keys(tmp_path / "keys", ApiKey("")).check("") is None


@pytest.mark.parametrize("name", ["", "a b", "a\nb", "-a", "é", "x" * 65, "taken", EXTRA_OWNER])
def test_other_names_are_refused(tmp_path: Path, name: str) -> None:
    keys = Keys(tmp_path / "keys", None)
    keys.create("taken")
    with pytest.raises(SettingError):
        keys.create(name)
    assert keys.list_names() == ["taken"]


def test_tokens_are_for_one_purpose_and_a_time(tmp_path: Path) -> None:
    keys = Keys(tmp_path / "keys", None)
    token = keys.sign("session", "ü; owner", 60)
    assert Keys(tmp_path / "keys", None).verify("session", token) == "ü; owner"
    assert Keys(tmp_path / "other", None).verify("session", token) is None
    assert keys.verify("csrf", token) is None
    assert keys.verify("session", keys.sign("session", "owner", -1)) is None
    payload, expires, seal = token.split(".")
    for forged in ("", ".", "..", token[:-1], f"{payload}.{expires}0.{seal}", f"{payload}A.{expires}.{seal}", "é.é.é"):
        assert keys.verify("session", forged) is None
    assert stat.S_IMODE((tmp_path / "keys" / "secret").stat().st_mode) == 0o600
