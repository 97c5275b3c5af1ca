"""What `context` shows instead of packing: what changed since an archive is exactly what another archive would have."""

from __future__ import annotations

import io
import json
import tarfile
from html.parser import HTMLParser
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from buildkit.archive.comparison import CHANGES, Change, PackedFile, compare_files, read_archive
from buildkit.errors import LocalError
from buildkit.treemap import LEGEND, LEGEND_OF_CHANGES, render_treemap

if TYPE_CHECKING:
    from tests.commands import Command

CSS = (Path(__file__).parent.parent / "templates/server/static/treemap.css").read_text("utf-8")
INSIDE = "openhands-sdk/openhands/sdk"
TREES = st.dictionaries(st.sampled_from("abcdef"), st.tuples(st.integers(0, 3), st.sampled_from("xy")), max_size=6)


def list_files(tree: dict[str, tuple[int, str]]) -> list[PackedFile]:
    return [PackedFile(path, size, digest) for path, (size, digest) in tree.items()]


@given(TREES, TREES)
def test_changes_turn_one_list_into_the_other(old: dict[str, tuple[int, str]], new: dict[str, tuple[int, str]]) -> None:
    changes = compare_files(list_files(old), list_files(new))
    assert {change.path for change in changes} == {path for path in old | new if old.get(path) != new.get(path)}
    assert sum(change.growth for change in changes) == sum(s for s, _ in new.values()) - sum(s for s, _ in old.values())
    assert [abs(change.growth) for change in changes] == sorted((abs(c.growth) for c in changes), reverse=True)
    assert {change.kind for change in changes} <= set(CHANGES)


@pytest.fixture
def packed(command: Command) -> Command:
    """A checkout that was packed, of the files `grows.txt`, `shrinks.txt`, `stays.txt`, `turns.sh`, `leaves.txt`."""
    folder = command.checkout / INSIDE
    for name in ("grows.txt", "shrinks.txt", "stays.txt", "turns.sh", "leaves.txt"):
        (folder / name).write_text("x" * 100)
    (folder / "link").symlink_to("stays.txt")
    command.run("all").succeed()
    return command


def change(command: Command) -> dict[str, Change]:
    """Change the packed checkout in every way, and return the changes that are to be found, by file name."""
    folder = command.checkout / INSIDE
    (folder / "grows.txt").write_text("x" * 150)
    (folder / "shrinks.txt").write_text("x" * 60)
    (folder / "stays.txt").write_text("y" * 100)
    (folder / "turns.sh").chmod(0o755)
    (folder / "leaves.txt").unlink()
    (folder / "comes\u202e.txt").write_text("x" * 1000)
    (folder / "link").unlink()
    (folder / "link").symlink_to("grows.txt")
    kinds = {"comes\u202e.txt": 1000, "leaves.txt": -100, "grows.txt": 50, "shrinks.txt": -40}
    names = dict(zip(kinds, ("added", "removed", "grown", "shrunk"), strict=True))
    changes = {name: Change(names[name], f"{INSIDE}/{name}", growth) for name, growth in kinds.items()}
    return changes | {name: Change("changed", f"{INSIDE}/{name}", 0) for name in ("link", "stays.txt", "turns.sh")}


def test_nothing_changed_since_the_last_archive(packed: Command) -> None:
    ended = packed.run("context", "--diff").succeed()
    assert (ended.out, ended.err.count("nothing changed since agent-server-")) == ("", 1)
    assert packed.run("context", "--diff", "--json").succeed().record["changes"] == []


def test_every_change_is_listed_largest_first_and_nothing_is_packed(packed: Command) -> None:
    before = {path: path.read_bytes() for path in packed.output.iterdir()}
    expected = list(change(packed).values())
    ended = packed.run("context", "--diff").succeed()
    assert [line.split()[:2] for line in ended.out.splitlines()] == [
        [found.kind, f"{found.growth:+}"] for found in expected
    ]
    assert ended.out.splitlines()[0].endswith(f"{INSIDE}/comes\\u202e.txt")
    assert "3 changed, 1 added, 1 removed, 1 grown, 1 shrunk since agent-server-" in ended.err
    assert ": +910 B, now " in ended.err
    record = packed.run("context", "--diff", "--json").succeed().record
    assert [Change(*found.values()) for found in record["changes"]] == expected
    assert record["growth_bytes"] == 910
    assert {path: path.read_bytes() for path in packed.output.iterdir()} == before


def test_what_another_archive_has_is_what_was_announced(packed: Command, tmp_path: Path) -> None:
    """The two ends of the comparison read alike: an archive of the changed tree differs from it in nothing."""
    first = tmp_path / "first.tar.gz"
    first.write_bytes((packed.output / packed.read_state("context")["archive"]).read_bytes())
    announced = change(packed)
    packed.run("all").succeed()
    assert packed.run("context", "--diff").succeed().out == ""
    record = packed.run("context", "--diff", str(first), "--json").succeed().record
    assert {Change(*found.values()) for found in record["changes"]} == set(announced.values())
    assert record["since"] == "first.tar.gz"


def test_what_cannot_be_compared_says_why(packed: Command, tmp_path: Path) -> None:
    (tmp_path / "text.tar.gz").write_text("not an archive")
    packed.run("context", "--diff", str(tmp_path / "text.tar.gz")).fail(3, "text.tar.gz cannot be read as a tar.gz")
    packed.run("context", "--diff", "missing.tar.gz").fail(2, "cannot read missing.tar.gz: No such file")
    packed.run("context", "--diff=").fail(2, "cannot read")
    packed.run("clean").succeed()
    packed.run("context", "--diff").fail(3, "dockerfile.json is missing")


@pytest.mark.parametrize("cut", [1, 20, 400])
def test_a_damaged_archive_is_an_error(cut: int) -> None:
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w:gz") as tar:
        member = tarfile.TarInfo("a")
        member.size = 5000
        tar.addfile(member, io.BytesIO(bytes(range(250)) * 20))
    with pytest.raises(LocalError, match=r"x\.tar\.gz cannot be read"):
        read_archive(io.BytesIO(data.getvalue()[:-cut]), "x.tar.gz")


class Words(HTMLParser):
    """The classes of the cells of a page, and its words."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.classes: set[str] = set()
        self.words = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.classes |= {dict(attrs).get("class") or ""} if tag == "rect" else set()

    def handle_data(self, data: str) -> None:
        self.words += data


def test_the_map_says_what_changed_in_words_and_in_colour(packed: Command) -> None:
    expected = change(packed)
    ended = packed.run("context", "--diff", "--map", "map.html", "--json", changing=("src/map.html",)).succeed()
    page = Words((packed.checkout / "map.html").read_text("utf-8"))
    assert {f"map-{found.kind}" for found in expected.values()} <= page.classes
    for words in ("comes\\u202e.txt: 1.0 kB, added", "grows.txt: 150 B, grown by 50 B", "leaves.txt: 100 B, removed"):
        assert words in page.words
    assert "7 changed" in page.words
    assert ended.record["map"] == "map.html"
    assert len(ended.record["changes"]) == 7


@pytest.mark.parametrize("kind", [*LEGEND, *LEGEND_OF_CHANGES])
def test_every_kind_of_a_legend_has_a_colour(kind: str) -> None:
    assert f".map-{kind} {{ fill: var(--map-" in CSS or f".map-{kind}, " in CSS or f", .map-{kind} {{" in CSS


def test_a_map_without_changes_colours_files_by_what_they_are() -> None:
    page = Words(render_treemap([("a.py", 5000), ("b.png", 5000), ("c/LICENSE", 5000), ("c/d", 5000)]))
    assert {"map-code", "map-media", "map-text", "map-other"} <= page.classes
    assert json.dumps(sorted(page.classes)).count("added") == 0
