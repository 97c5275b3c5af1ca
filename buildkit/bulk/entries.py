"""The wanted images: `bases.txt`, one base image per line, or `images.toml`, checked whole before any work starts."""

from __future__ import annotations

import dataclasses
import difflib
import re
import tomllib
from typing import TYPE_CHECKING, Any, NamedTuple

from buildkit.errors import LocalError, SettingError
from buildkit.files import read_bounded
from buildkit.reference import Reference, check_tag, parse_reference

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from buildkit.settings import Settings

IMAGES_FILE = "images.toml"
_MAX_BYTES = 16_000_000
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")
_MAX_NAME = 100
# Settings of these groups say what is in an image, so they may differ from image to image.
_GROUPS = frozenset({"target", "dockerfile", "server"})
_OWN_KEYS = ("base", "name", "tags")
_SHOWN_PROBLEMS = 20


class ImageEntry(NamedTuple):
    """One wanted image.

    Attributes:
        name: Of its directory, and in every message.
        base: The base image.
        settings: Those of the project with what the file says about this image; BASE_IMAGE is not among them.
        tags: In addition to the tag that identifies the contents.
    """

    name: str
    base: Reference
    settings: Settings
    tags: tuple[str, ...] = ()


class _Draft(NamedTuple):
    """An entry as it was written, and where."""

    place: str
    values: Mapping[str, Any]


def read_bases(path: Path, settings: Settings) -> list[ImageEntry]:
    """Return the images of a file that has one base image per line; `#` begins a comment.

    Raises:
        SettingError: Something in it is wrong; every problem is named.
        LocalError: It cannot be read.
    """
    lines = [line.partition("#")[0].strip() for line in _read_text(path).splitlines()]
    drafts = [_Draft(f"{path.name}, line {number}", {"base": line}) for number, line in enumerate(lines, 1) if line]
    return _Checker(settings).check(drafts, path.name)


def read_images(path: Path, settings: Settings) -> list[ImageEntry]:
    """Return the images of a TOML file: an `[[image]]` table for each, and their defaults at the top.

    Raises:
        SettingError: Something in it is wrong; every problem is named.
        LocalError: It cannot be read.
    """
    try:
        document = tomllib.loads(_read_text(path))
    except tomllib.TOMLDecodeError as error:
        raise SettingError(f"{path.name} is not TOML: {error}", f"correct {path.name}") from error
    tables = document.pop("image", [])
    if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        raise SettingError(f"`image` in {path.name} is not a list of tables", "write each image as an [[image]] table")
    checker = _Checker(settings)
    checker.check_keys(document, f"{path.name}, the defaults", ("tags",))
    drafts = [_Draft(f"{path.name}, image {number}", document | table) for number, table in enumerate(tables, 1)]
    return checker.check(drafts, path.name)


def derive_name(base: Reference) -> str:
    """Return the name of an image that is not given one, from the repository and the tag of its base image.

    >>> derive_name(parse_reference("ghcr.io/acme/django:1.0"))
    'acme-django-1.0'
    """
    version = base.tag or (base.digest or "").rpartition(":")[2][:12]
    words = "-".join(filter(None, [base.repository, version]))
    name = re.sub(r"[^A-Za-z0-9_.-]+", "-", words)
    return name[-_MAX_NAME:].lstrip("-._")


def select_shard(entries: Sequence[ImageEntry], shard: str | None) -> list[ImageEntry]:
    """Return the share of the images that `K/N` names, or all of them without it.

    Raises:
        SettingError: It is not a share.
    """
    if shard is None:
        return list(entries)
    match = re.fullmatch(r"([0-9]{1,6})/([0-9]{1,6})", shard)
    if match is None or not 1 <= int(match[1]) <= int(match[2]):
        raise SettingError(f"--shard is not K/N with K from 1 to N: {shard!r}", "write --shard 1/5 for the first fifth")
    return list(entries)[int(match[1]) - 1 :: int(match[2])]


class _Checker:
    """Turns drafts into entries, and collects every problem on the way."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._fields = {
            item.name: item
            for item in dataclasses.fields(settings)
            if item.metadata["group"] in _GROUPS and item.name != "base_image"
        }
        self._problems: list[str] = []

    def check(self, drafts: Sequence[_Draft], file: str) -> list[ImageEntry]:
        """Return the entries if nothing is wrong with any of them."""
        if not drafts and not self._problems:
            raise SettingError(f"{file} names no image", "add a base image to it")
        entries = [(draft, entry) for draft in drafts if (entry := self._parse(draft))]
        self._refuse_duplicates(entries)
        if self._problems:
            shown = self._problems[:_SHOWN_PROBLEMS]
            more = f"; and {len(self._problems) - len(shown)} more" if len(self._problems) > len(shown) else ""
            raise SettingError("; ".join(shown) + more, f"correct {file}; nothing was built")
        return [entry for _, entry in entries]

    def check_keys(self, table: Mapping[str, Any], place: str, own_keys: Sequence[str] = _OWN_KEYS) -> None:
        """Note the keys of a table that mean nothing, each with the one that was probably meant."""
        known = [*own_keys, *self._fields]
        for key in table:
            if key not in known:
                near = difflib.get_close_matches(key.lower(), known, 1)
                hint = f"; did you mean {near[0]}?" if near else f"; an image has {', '.join(known)}"
                self._problems.append(f"{place}: unknown key {key!r}{hint}")

    def _parse(self, draft: _Draft) -> ImageEntry | None:
        self.check_keys(draft.values, draft.place)
        count = len(self._problems)
        base, name, tags = (draft.values.get(key) for key in _OWN_KEYS)
        if not isinstance(base, str) or not base:
            self._problems.append(f"{draft.place}: `base` is missing or is not text")
        parsed = dict(self._parse_settings(draft))
        try:
            reference = parse_reference(base, "base") if isinstance(base, str) and base else None
            chosen = derive_name(reference) if name is None and reference else _check_name(name or "none")
            checked = tuple(check_tag(tag, number, "tags") for number, tag in enumerate(_list_texts(tags), 1))
        except SettingError as error:
            self._problems.append(f"{draft.place}: {error.message}")
            return None
        if reference is None or len(self._problems) > count:
            return None
        settings = dataclasses.replace(self._settings, **parsed) if parsed else self._settings
        return ImageEntry(chosen, reference, settings, checked)

    def _parse_settings(self, draft: _Draft) -> Iterator[tuple[str, Any]]:
        """Yield the typed value of each setting, parsed as if it came from the environment."""
        for key, value in draft.values.items():
            if key in self._fields:
                try:
                    yield key, self._fields[key].metadata["parse"](_format_value(value), key)
                except SettingError as error:
                    self._problems.append(f"{draft.place}: {error.message}")

    def _refuse_duplicates(self, entries: Sequence[tuple[_Draft, ImageEntry]]) -> None:
        """Note images that would be built twice, share a directory, or overwrite each other's tag."""
        seen: dict[tuple[str, object], str] = {}
        for draft, entry in entries:
            twice: list[tuple[tuple[str, object], str]] = [(("tag", tag), f"the tag {tag!r}") for tag in entry.tags]
            same = (str(entry.base), repr(entry.settings))
            if ("image", same) in seen:
                twice = [(("image", same), f"the base image {entry.base}")]
            else:
                seen["image", same] = draft.place
                # Some file systems ignore case.
                twice.append((("name", entry.name.lower()), f"the name {entry.name!r}"))
            for mark, what in twice:
                if mark in seen:
                    hint = "; give one of them another `name`" if mark[0] == "name" else ""
                    self._problems.append(f"{draft.place}: {what} is also that of {seen[mark]}{hint}")
                else:
                    seen[mark] = draft.place


def _check_name(name: object) -> str:
    if not isinstance(name, str) or not _NAME.fullmatch(name) or name.endswith("."):
        raise SettingError(
            f"name is not a directory's name of at most {_MAX_NAME} of A-Z a-z 0-9 _ . -: {name!r}", "choose another"
        )
    return name


def _list_texts(tags: object) -> list[str]:
    texts = [tags] if isinstance(tags, str) else [] if tags is None else tags
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise SettingError(f"tags is not a list of texts: {tags!r}", 'write tags = ["one", "two"]')
    return texts


def _format_value(value: object) -> str:
    """Return a TOML value as the text of a setting."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return ",".join(map(str, value))
    if isinstance(value, dict):
        return "\n".join(["", *(f"{name}={text}" for name, text in value.items())])
    return str(value)


def _read_text(path: Path) -> str:
    try:
        return read_bounded(path, _MAX_BYTES, follow=True).decode("utf-8-sig")
    except OSError as error:
        raise LocalError(f"cannot read {path}: {error.strerror or error}", "give another file to --bases") from error
    except UnicodeDecodeError as error:
        raise SettingError(f"{path.name} is not UTF-8 text: {error}", "save it as UTF-8") from error
