"""State files: written whole, read back as they were, refused where anything about them is not right."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import stat
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from buildkit.errors import LocalError
from buildkit.models import BuildContext, BuildResult, Dockerfile, LocalBuild, StepResult, Submission, Version
from buildkit.state import format_state
from buildkit.workspace import Workspace

if TYPE_CHECKING:
    from pathlib import Path

VERSION = Version("agent-server-0506352-dev", "0" * 40, "0506352", False, ["dev"], "dev", "x.tar.gz", 1_760_000_000)
RESULTS: list[StepResult] = [
    VERSION,
    dataclasses.replace(VERSION, sha=None, commit_time=None, dirty=True),
    Dockerfile("source", "debian:12", "a" * 64, {"A": "1"}, made_from={"version.json": "b" * 64}),
    BuildContext("x.tgz", "a" * 64, 1, "b" * 64, 2, 3, {"name": "zlib", "level": 1}),
    Submission("intent", "https://example.com", "a/b:1", [], "c" * 64, None, None, "d" * 64),
    Submission(
        "submitted",
        "https://example.com",
        "a/b:1",
        ["a/b:2"],
        "c" * 64,
        "id",
        "2026-01-01T00:00:00Z",
        None,
        "https://r",
    ),
    BuildResult("id", "SUCCESS", "a/b:1", None, 1.5),
    BuildResult("id", "FAILURE", None, "no space", 2),
    LocalBuild("docker", "a:1", "sha256:1", None, 3.25),
]
DAMAGE: list[dict[str, Any]] = [{"name": ...}, {"name": 1}, {"dirty": 0}, {"dirty": "false"}, {"tags": "dev"}]
DAMAGE += [{"tags": [1]}, {"sha": 1}, {"commit_time": "1"}, {"commit_time": True}, {"made_from": []}]
DAMAGE += [{"made_from": {"a": 1}}, {"schema": "1"}]


def drop_made_from(result: StepResult) -> StepResult:
    return dataclasses.replace(result, made_from={})


def edit(directory: Path, step: str, **changes: Any) -> None:
    """Write into a state file; what is `...` is taken out."""
    path = directory / f"{step}.json"
    record = json.loads(path.read_bytes()) | changes
    path.write_text(json.dumps({name: value for name, value in record.items() if value is not ...}))


def refuse(directory: Path, kind: type[StepResult] = Version) -> LocalError:
    with pytest.raises(LocalError) as caught:
        Workspace(directory).load(kind)
    assert caught.value.message.startswith(f"{directory.name}/{kind.step}.json ")
    assert f"`runtime-build {kind.step}`" in caught.value.fix
    return caught.value


@pytest.mark.parametrize("result", RESULTS)
def test_what_is_saved_is_what_is_loaded(output_dir: Path, result: StepResult) -> None:
    Workspace(output_dir).save(drop_made_from(result))
    assert Workspace(output_dir).load(type(result)) == drop_made_from(result)


@pytest.mark.parametrize("result", RESULTS)
def test_same_result_is_the_same_bytes_in_ascii(result: StepResult) -> None:
    assert format_state(result) == format_state(dataclasses.replace(result))
    assert format_state(result).isascii()
    assert json.loads(format_state(result))["schema"] == 1


def test_keys_are_those_of_the_contract() -> None:
    keys = "schema name sha short_sha dirty tags primary_tag archive commit_time made_from"
    assert list(json.loads(format_state(VERSION))) == keys.split()


def test_state_file_is_readable_by_others_and_leaves_nothing_beside_it(output_dir: Path) -> None:
    Workspace(output_dir).save(VERSION)
    assert stat.S_IMODE((output_dir / "version.json").stat().st_mode) == 0o644
    assert sorted(os.listdir(output_dir)) == [".gitignore", "version.json"]


def test_missing_state_names_the_task_that_makes_it(output_dir: Path) -> None:
    assert refuse(output_dir, Dockerfile).message == "runtime-build/dockerfile.json is missing"
    assert Workspace(output_dir).find(Dockerfile) is None


@pytest.mark.parametrize(
    "content", [b"", b"{", b"null", b"[]", b"{}", b"\xff", b'"x"', b"[" * 100_000, b'{"schema": 2}']
)
def test_damaged_state_is_refused(output_dir: Path, content: bytes) -> None:
    (output_dir / "version.json").write_bytes(content)
    refuse(output_dir)


def test_state_that_is_a_folder_is_refused(output_dir: Path) -> None:
    (output_dir / "version.json").mkdir()
    refuse(output_dir)


@pytest.mark.parametrize("changes", DAMAGE)
def test_value_that_is_missing_or_of_another_type_is_refused(output_dir: Path, changes: dict[str, Any]) -> None:
    Workspace(output_dir).save(VERSION)
    edit(output_dir, "version", **changes)
    assert next(iter(changes)) in refuse(output_dir).message


@pytest.mark.parametrize(
    "archive", ["../x.tar.gz", "/x.tar.gz", "a/b.tgz", "..", "", "Dockerfile", ".gitignore", "x.tar.gz\n"]
)
def test_archive_is_a_name_and_never_a_path(output_dir: Path, archive: str) -> None:
    Workspace(output_dir).save(VERSION)
    edit(output_dir, "version", archive=archive)
    assert "'archive'" in refuse(output_dir).message


def test_keys_of_a_later_version_are_passed_over(output_dir: Path) -> None:
    Workspace(output_dir).save(VERSION)
    edit(output_dir, "version", news="x")
    assert Workspace(output_dir).load(Version) == VERSION


def test_result_whose_input_changed_or_went_is_refused(output_dir: Path) -> None:
    Workspace(output_dir).save(VERSION)
    made_from = Workspace(output_dir).digests("version.json")
    Workspace(output_dir).save(Dockerfile("source", "debian:12", "a" * 64, {}, made_from=made_from))
    assert Workspace(output_dir).load(Dockerfile).made_from == made_from
    edit(output_dir, "version", name="other")
    assert refuse(output_dir, Dockerfile).message.endswith("was made from another version.json")
    assert Workspace(output_dir).load(Dockerfile, trace=False).target == "source"
    (output_dir / "version.json").unlink()
    refuse(output_dir, Dockerfile)


def test_made_from_is_looked_for_in_the_output_directory_only(output_dir: Path) -> None:
    outside = output_dir.parent / "outside"
    outside.write_text("x")
    Workspace(output_dir).save(VERSION)
    edit(output_dir, "version", made_from={"../outside": hashlib.sha256(b"x").hexdigest()})
    refuse(output_dir)


def test_digests_are_those_of_the_bytes_and_of_what_is_there(output_dir: Path) -> None:
    (output_dir / "a").write_bytes(b"x")
    assert Workspace(output_dir).digests("a", "b") == {"a": hashlib.sha256(b"x").hexdigest()}
    assert Workspace(output_dir.parent).digest(output_dir.name) is None


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    )
)
def test_any_json_at_all_is_refused_or_loaded(tmp_path_factory: pytest.TempPathFactory, value: Any) -> None:
    directory = tmp_path_factory.getbasetemp()
    record = json.loads(format_state(VERSION))
    for name in record:
        (directory / "version.json").write_text(json.dumps(record | {name: value}))
        try:
            assert isinstance(Workspace(directory).load(Version), Version)
        except LocalError as error:
            assert "runtime-build version" in error.fix  # noqa: PT017 - both ends are right
