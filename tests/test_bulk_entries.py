"""The list of images: what it may say, and that everything wrong with it is reported at once."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from buildkit.bulk.entries import ImageEntry, read_bases, read_images, select_shard
from buildkit.errors import LocalError, SettingError
from buildkit.models import Target
from buildkit.settings import Settings

if TYPE_CHECKING:
    from pathlib import Path


def bases(tmp_path: Path, text: str) -> list[ImageEntry]:
    path = tmp_path / "bases.txt"
    path.write_text(text)
    return read_bases(path, Settings())


def images(tmp_path: Path, text: str) -> list[ImageEntry]:
    path = tmp_path / "images.toml"
    path.write_text(text)
    return read_images(path, Settings())


def test_a_line_is_a_base_image_and_the_name_comes_from_it(tmp_path: Path) -> None:
    found = bases(tmp_path, "# ours\ndebian:12\n\nghcr.io/acme/django:4.2  # newest\n" + "x@sha256:" + "a" * 64)
    assert [entry.name for entry in found] == ["debian-12", "acme-django-4.2", "x-aaaaaaaaaaaa"]
    assert [str(entry.base) for entry in found][:2] == ["debian:12", "ghcr.io/acme/django:4.2"]
    assert len({id(entry.settings) for entry in found}) == 1


def test_long_names_keep_their_end(tmp_path: Path) -> None:
    (entry,) = bases(tmp_path, f"registry.example.com/{'a' * 120}/sweb.eval:django-1\n")
    assert len(entry.name) <= 100
    assert entry.name.endswith("sweb.eval-django-1")


def test_tables_take_the_defaults_and_override_them(tmp_path: Path) -> None:
    text = """
        target = "source"
        tags = ["nightly"]
        [[image]]
        base = "debian:12"
        tags = []
        [[image]]
        base = "debian:12"
        name = "small"
        target = "source-minimal"
        extra_packages = ["jq", "less"]
        build_args = {UV_VERSION = "0.9", MORE = "a,b"}
        features = []
    """
    first, second = images(tmp_path, text)
    assert (first.name, first.settings.target, first.tags) == ("debian-12", Target("source"), ())
    assert (second.name, second.settings.target, second.tags) == ("small", Target("source-minimal"), ("nightly",))
    assert second.settings.extra_packages == ("jq", "less")
    assert second.settings.build_args == {"UV_VERSION": "0.9", "MORE": "a,b"}


def test_every_problem_is_named_at_once(tmp_path: Path) -> None:
    text = """
        targets = "source"
        [[image]]
        base = "debian:12"
        taget = "source"
        [[image]]
        name = "x"
        [[image]]
        base = "Debian"
        [[image]]
        base = "debian:13"
        target = "binray"
        tags = ["a b"]
        [[image]]
        base = "alpine"
        name = "../x"
    """
    with pytest.raises(SettingError) as caught:
        images(tmp_path, text)
    for problem in (
        "the defaults: unknown key 'targets'; did you mean target?",
        "image 1: unknown key 'taget'; did you mean target?",
        "image 2: `base` is missing",
        "image 3: base is not an image reference: 'Debian'",
        "image 4: target is not one of",
        "image 4: tags: tag 1 is not a tag: 'a b'",
        "image 5: name is not a directory's name",
    ):
        assert problem in caught.value.message, problem
    assert caught.value.fix == "correct images.toml; nothing was built"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (
            "debian:12\ndebian:13\ndebian:12\n",
            "bases.txt, line 3: the base image debian:12 is also that of bases.txt, line 1",
        ),
        (
            "a/b:1\na-b:1\n",
            "bases.txt, line 2: the name 'a-b-1' is also that of bases.txt, line 1; give one of them another",
        ),
        ("debian 12\n", "line 1: base is not an image reference: 'debian 12'"),
        ("# nothing\n\n", "bases.txt names no image"),
        ("debian:12\n$(id)\n", "line 2: base is not an image reference"),
    ],
)
def test_bad_lists_of_bases(tmp_path: Path, text: str, problem: str) -> None:
    with pytest.raises(SettingError) as caught:
        bases(tmp_path, text)
    assert problem in caught.value.message


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "images.toml names no image"),
        ("image = 3", "not a list of tables"),
        ("[image]\nbase = 'debian'", "not a list of tables"),
        ("[[image]", "is not TOML"),
        ("[[image]]\nbase = 'a'\nname = 'X'\n[[image]]\nbase = 'b'\nname = 'x'", "the name 'x' is also that of"),
        ("tags = ['t']\n[[image]]\nbase = 'a'\n[[image]]\nbase = 'b'", "the tag 't' is also that of"),
        ("tags = 3\n[[image]]\nbase = 'a'", "tags is not a list of texts"),
        ("[[image]]\nbase = 'a'\nbuild_args = {API_KEY = 'x'}", "looks like a secret"),
        ("[[image]]\nbase = 'a'\nworkers = 3", "unknown key 'workers'"),
        ("[[image]]\nbase = 'a'\nruntime_api_url = 'http://x'", "unknown key 'runtime_api_url'"),
    ],
)
def test_bad_tables(tmp_path: Path, text: str, problem: str) -> None:
    with pytest.raises(SettingError) as caught:
        images(tmp_path, text)
    assert problem in caught.value.message


def test_missing_and_binary_files(tmp_path: Path) -> None:
    with pytest.raises(LocalError, match="cannot read"):
        read_bases(tmp_path / "none", Settings())
    (tmp_path / "latin").write_bytes(b"\xff\xfe")
    with pytest.raises(SettingError, match="not UTF-8"):
        read_bases(tmp_path / "latin", Settings())


def test_shards_share_everything_once(tmp_path: Path) -> None:
    found = bases(tmp_path, "".join(f"b:{number}\n" for number in range(11)))
    shares = [select_shard(found, f"{number}/3") for number in (1, 2, 3)]
    assert sorted(entry.name for share in shares for entry in share) == sorted(entry.name for entry in found)
    assert {len(share) for share in shares} <= {3, 4}
    assert select_shard(found, "12/12") == []


@pytest.mark.parametrize("shard", ["0/2", "3/2", "1", "a/b", "1/0", "-1/2"])
def test_bad_shards(shard: str) -> None:
    with pytest.raises(SettingError, match="--shard is not K/N"):
        select_shard([], shard)
