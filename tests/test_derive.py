"""The Dockerfile derived from the source's own: what is filled in, what is cut off, what stays as it is."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from buildkit.contract import GIT_REF, GIT_SHA
from buildkit.derived import derive_dockerfile, find_unpacked
from buildkit.errors import LocalError, RuntimeBuildError, SettingError
from buildkit.models import PROGRAMS
from buildkit.ui import Ui
from buildkit.workspace import Workspace
from tests.rendering import Tree, write_dockerfile

if TYPE_CHECKING:
    from buildkit.derived import DerivedDockerfile
    from tests.commands import Command

TEXTS = Path(__file__).parent / "dockerfiles"
TARGETS = ("binary", "binary-minimal", "source", "source-minimal")
STAGES = (
    "builder",
    "binary-builder",
    "base-image-minimal",
    "base-image",
    "source",
    "source-minimal",
    "binary",
    "binary-minimal",
)
SHA = "0506352" + "a" * 33
REVISION = f"{GIT_SHA} {GIT_REF}"


def read_text(name: str) -> str:
    """Return one of the texts in `dockerfiles`, its line ends as they are."""
    return (TEXTS / f"{name}.Dockerfile").read_bytes().decode()


class Warnings(Ui):
    """Keeps the warnings."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def warn(self, line: str) -> None:
        self.lines.append(line)


def derive(text: str, target: str | None = "source", **values: str) -> tuple[DerivedDockerfile, list[str]]:
    """Return what was derived, and the warnings."""
    ui = Warnings()
    derived = derive_dockerfile(text, "docker/Dockerfile", target, {**values, GIT_SHA: SHA, GIT_REF: "main"}, ui)
    return derived, ui.lines


def refuse(text: str, target: str = "source", **values: str) -> RuntimeBuildError:
    """Return the error that deriving ends in."""
    with pytest.raises(RuntimeBuildError) as caught:
        derive(text, target, **values)
    return caught.value


@pytest.mark.parametrize("target", TARGETS)
def test_the_target_is_the_last_stage_and_those_above_it_stay(target: str) -> None:
    derived, _ = derive(read_text("workspace"), target)
    stages = re.findall(r"^FROM \S+ AS (\S+)$", derived.text, re.MULTILINE)
    assert stages == list(STAGES[: STAGES.index(target) + 1])


def test_without_a_target_the_last_stage_is_meant() -> None:
    text = read_text("numbers")
    derived, _ = derive(text, None)
    assert derived.text == text


def test_values_become_the_defaults_of_the_args_that_take_them() -> None:
    derived, _ = derive(read_text("workspace"), BASE_IMAGE="debian:13", ENABLE_VERTEX="1", RELEASE_TAG="v2")
    for line in (
        'ARG BASE_IMAGE="debian:13"',
        'ARG ENABLE_VERTEX="1"',
        'ARG RELEASE_TAG="v2"',
        f'ARG OPENHANDS_BUILD_GIT_SHA="{SHA}"',
        'ARG OPENHANDS_BUILD_GIT_REF="main"',
        "ARG USERNAME UID ENABLE_VERTEX",
    ):
        assert f"\n{line}\n" in derived.text
    assert derived.base_image == "debian:13"


def test_without_a_base_image_the_files_own_default_stands() -> None:
    derived, _ = derive(read_text("workspace"))
    assert "\nARG BASE_IMAGE=nikolaik/python-nodejs:python3.13-nodejs22-slim\n" in derived.text
    assert derived.base_image == "nikolaik/python-nodejs:python3.13-nodejs22-slim"


def test_all_but_values_and_later_stages_stays_byte_for_byte() -> None:
    text = read_text("workspace")
    expected = text[: text.index("\nFROM base-image-minimal AS source-minimal")]
    expected = expected.replace("GIT_SHA=unknown", f'GIT_SHA="{SHA}"').replace("GIT_REF=unknown", 'GIT_REF="main"')
    assert derive(text)[0].text == expected


@pytest.mark.parametrize("line_end", ["\n", "\r\n"], ids=["LF", "CRLF"])
@pytest.mark.parametrize("name", ["workspace", "numbers", "heredocs", "backticks", "platforms", "arguments"])
def test_deriving_twice_is_the_same_as_once(name: str, line_end: str) -> None:
    text = read_text(name).replace("\n", line_end)
    once, _ = derive(text)
    twice, _ = derive(once.text)
    assert twice == once
    assert once.text.count("\r\n") == once.text.count("\n") * (line_end == "\r\n")


def test_numbers_of_stages_mean_what_they_meant() -> None:
    text = read_text("numbers")
    assert derive(text)[0].text == text[: text.index("\nFROM source AS later")]


def test_what_is_in_a_heredoc_is_not_an_instruction() -> None:
    text = read_text("heredocs")
    derived, _ = derive(text, VERSION="2")
    assert derived.text == text.replace("ARG VERSION=1\n", 'ARG VERSION="2"\n')


def test_values_are_escaped_as_the_escape_directive_says() -> None:
    derived, _ = derive(read_text("backticks"), FOLDER=r"c:\`x`", BASE_IMAGE="debian:13")
    assert derived.text.startswith('# escape=`\nARG BASE_IMAGE="debian:13"\nFROM ${BASE_IMAGE} AS unused\n')
    assert 'ARG FOLDER="c:\\``x``"\nCOPY pyproject.toml c:\\\nRUN dir `\n    c:\\\n' in derived.text


def test_a_base_that_only_the_builder_knows_may_be_any_stage_of_a_fitting_name() -> None:
    derived, _ = derive(read_text("platforms"))
    assert derived.base_image == "debian:trixie"
    derived, _ = derive(read_text("platforms"), VARIANT="other")
    assert derived.base_image == "debian:trixie"
    text = "FROM a:1 AS base-amd64\nFROM b:1 AS base-arm64\nFROM base-${TARGETARCH} AS source\n"
    derived, warnings = derive(text)
    assert derived.base_image == "base-$TARGETARCH"
    assert warnings[0].endswith(": a:1, b:1")


def test_args_of_every_form_take_their_values() -> None:
    derived, _ = derive(read_text("arguments"), COLOUR='$1 "\\', SIZE="L", WEIGHT="two", DEPTH="3")
    assert derived.text == (
        'ARG BASE_IMAGE\nARG COLOUR="\\$1 \\"\\\\" SHAPE SIZE="L"\nFROM ${BASE_IMAGE:-debian:13} AS source\n'
        'ARG COLOUR\nARG SIZE="L" WEIGHT="two" DEPTH="3"\n'
        'ARG SHAPE COLOUR="\\$1 \\"\\\\"\nONBUILD ARG COLOUR=blue\nENV COLOUR=${COLOUR}\n'
    )
    assert derived.base_image == "debian:13"


def test_a_later_argument_of_the_same_instruction_may_use_the_value() -> None:
    derived, _ = derive('FROM a AS source\nARG A=1 B=${A}-"x y"\n', A="2")
    assert derived.text == 'FROM a AS source\nARG A="2" B=${A}-"x y"\n'


def test_a_stage_that_is_used_before_its_from_is_refused() -> None:
    error = refuse("FROM a AS source\nCOPY --from=later /x /y\nFROM b AS later\n")
    assert (error.exit_code, error.fix) == (3, "move these stages further up")
    assert "later" in error.message


def test_images_from_elsewhere_and_values_without_effect_are_told() -> None:
    _, warnings = derive(read_text("workspace"), "source-minimal", RELEASE_TAG="v2")
    images, unused = warnings
    assert images.endswith(": docker/dockerfile:1.7, python:3.13-bookworm, ghcr.io/astral-sh/uv:0.11.6")
    assert unused.endswith(": RELEASE_TAG")
    _, warnings = derive("FROM debian:13 AS source\n")
    assert [sorted(warning.split(": ")[1].split(", ")) for warning in warnings] == [sorted(REVISION.split())]
    _, warnings = derive(f"ARG {REVISION}\nFROM scratch AS a\nFROM a AS source\n")
    assert warnings == []


def test_a_value_that_no_arg_takes_is_refused_and_near_ones_are_named() -> None:
    error = refuse(read_text("workspace"), ENABLE_VERTX="1")
    assert (error.exit_code, error.message) == (2, "docker/Dockerfile has no ARG ENABLE_VERTX")
    assert "ENABLE_VERTEX?" in error.fix
    error = refuse("FROM debian:13 AS source\n", BASE_IMAGE="debian:12")
    assert (error.exit_code, error.fix) == (2, "unset BASE_IMAGE, or declare it; it has none")


def test_a_target_that_is_no_stage_is_refused_and_the_stages_are_named() -> None:
    error = refuse("FROM a AS one\nFROM b\nFROM c AS two\n", "binary")
    assert error.exit_code == 2
    assert error.message.endswith("its stages: one, two")
    assert "AS binary" in error.fix


def test_a_target_is_found_in_any_case_and_the_last_of_that_name_counts() -> None:
    derived, _ = derive("FROM a AS Source\nFROM b AS SOURCE\nFROM c AS other\n")
    assert derived.text == "FROM a AS Source\nFROM b AS SOURCE\n"


@pytest.mark.parametrize("text", ["", "# nothing\n", "ARG A=1\n", "FROM\n", "FROM a AS source\nRUN <<EOF\n"])
def test_a_text_that_is_no_dockerfile_is_a_local_error(text: str) -> None:
    assert isinstance(refuse(text), LocalError)


def test_a_file_that_is_missing_or_not_text_or_outside_is_refused_and_named(tmp_path: Path) -> None:
    source, workspace = tmp_path / "src", Workspace(tmp_path / "out")
    source.mkdir()
    (source / "latin").write_bytes(b"FROM \xff\n")
    os.mkfifo(source / "fifo")
    (tmp_path / "outside").write_text("FROM a\n")
    (source / "link").symlink_to(tmp_path / "outside")
    for path in ("nope", ".", "latin", "fifo"):
        with pytest.raises(LocalError, match=f"DOCKERFILE names '{re.escape(path)}'"):
            write_dockerfile(workspace, tree=Tree(source), dockerfile=path)
    for path in ("../outside", "link", str(tmp_path / "outside")):
        with pytest.raises(SettingError, match="outside"):
            write_dockerfile(workspace, tree=Tree(source), dockerfile=path)
    assert not workspace.exists("Dockerfile")


def test_the_files_are_written_and_the_settings_that_are_ignored_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "Dockerfile").write_text(read_text("workspace"))
    workspace, files = Workspace(tmp_path / "out"), ["openhands-sdk/x.py", "pyproject.toml", "uv.lock", "README.md"]
    write_dockerfile(workspace, "binary")
    result = write_dockerfile(
        workspace,
        "source",
        tree=Tree(tmp_path, files=[*files, "LICENSE"]),
        dockerfile="Dockerfile",
        features=frozenset({"docker"}),
        build_args={"UID": "7"},
    )
    assert 'ARG UID="7"' in workspace.read("Dockerfile").decode()
    assert "`Dockerfile` from the source" in workspace.read("BUILD_INSTRUCTIONS.md").decode()
    assert result.base_image == "nikolaik/python-nodejs:python3.13-nodejs22-slim"
    assert not [name for name in PROGRAMS if workspace.exists(name)]
    warnings = capsys.readouterr().err
    assert "ignored because DOCKERFILE is set: FEATURES" in warnings
    assert "wallpaper.svg; add it to INCLUDE, or run `runtime-build context --explain openhands-agent" in warnings


def test_paths_that_the_context_will_not_hold_are_found() -> None:
    text = (
        "FROM a AS one\nARG X\n"
        "COPY --chown=1 pyproject.toml ./src/ missing.txt /x/\n"
        'ADD ["with space", "gone", "/x"]\n'
        "COPY *.toml *.lock src/*.py s[r]c/a?y /x\nCOPY . /x\nCOPY 'quoted' /x\n"
        "COPY --from=b nothing /x\nCOPY $X <<EOF https://example.com/a /x\ntext\nEOF\n"
        "RUN --mount=type=bind,source=uv.lock,target=/l --mount=src=src,target=/s --mount=type=cache,source=c true\n"
        "ONBUILD COPY later /x\n"
    )
    files = ["pyproject.toml", "src/a/b.py", "with space"]
    assert find_unpacked(text, files) == ["missing.txt", "gone", "*.lock", "src/*.py", "s[r]c/a?y", "uv.lock"]


def test_the_task_derives_where_dockerfile_is_set(command: Command) -> None:
    path = "openhands-agent-server/Dockerfile"
    (command.checkout / path).write_text(read_text("workspace"))
    command.run("version").succeed()
    command.environment |= {"DOCKERFILE": path, "TARGET": "source", "BUILD_ARGS": "UID=7", "EXCLUDE": "wallpaper.svg"}
    ended = command.run("dockerfile", FEATURES="docker", BUILD_PACKAGES="libpq-dev").succeed()
    text = (command.output / "Dockerfile").read_text()
    instructions = (command.output / "BUILD_INSTRUCTIONS.md").read_text()
    assert re.findall(r"^FROM \S+ AS (\S+)$", text, re.MULTILINE)[-1] == "source"
    assert 'ARG UID="7"' in text
    assert f"`{path}`" in instructions
    assert "python3.13-nodejs22-slim" in instructions
    assert command.read_state("dockerfile")["base_image"] == "nikolaik/python-nodejs:python3.13-nodejs22-slim"
    assert "wallpaper.svg; add it to INCLUDE" in ended.err
    assert "FEATURES" in ended.err
    assert "BUILD_PACKAGES" in ended.err
    command.run("context").succeed()


@pytest.mark.parametrize(
    ("path", "code", "text"),
    [
        ("nope", 3, "DOCKERFILE"),
        ("../x", 2, "outside"),
        ("LICENSE", 3, "unknown instruction"),
        ("openhands-sdk", 3, "not a regular file"),
    ],
)
def test_the_task_refuses_a_file_that_cannot_be_derived_from(command: Command, path: str, code: int, text: str) -> None:
    command.run("version").succeed()
    command.run("dockerfile", DOCKERFILE=path).fail(code, text)
    assert not (command.output / "Dockerfile").exists()


@st.composite
def write_dockerfiles(draw: st.DrawFn) -> str:
    """Return a Dockerfile of stages that need one another, each with a label of its own; the target is `source`."""
    count = draw(st.integers(1, 7))
    named = draw(st.lists(st.booleans(), min_size=count, max_size=count))
    target = draw(st.integers(0, count - 1))
    names = ["source" if n == target else f"stage{n}" if named[n] else "" for n in range(count)]
    blocks = ["ARG BASE_IMAGE=debian:13 COLOUR=red\n"]
    for n, name in enumerate(names):
        earlier = st.sampled_from([*(name for name in names[:n] if name), "${BASE_IMAGE}"])
        sources = st.sampled_from([*map(str, range(n)), *(name for name in names[:n] if name), "busybox"])
        lines = draw(st.lists(st.sampled_from(("# a comment", "", "RUN x \\\n# c\n\n  y", "ARG SHAPE"))))
        for source in draw(st.lists(sources, max_size=3)):
            lines.append(
                draw(st.sampled_from((f"COPY --from={source} /a /b", f"RUN --mount=from={source},target=/x y")))
            )
        alias = f" AS {name}" if name else ""
        blocks.append("\n".join((f"# above {n}", f"FROM {draw(earlier)}{alias}", f"LABEL id={n}", *lines)) + "\n")
    return "".join(blocks)


@given(write_dockerfiles())
def test_lines_above_the_end_of_the_target_stay_and_the_rest_is_cut_off(text: str) -> None:
    derived, _ = derive(text)
    assert text.startswith(derived.text)
    assert re.findall(r"^FROM .*$", derived.text, re.MULTILINE)[-1].endswith(" AS source")
    assert re.match(r"(?:#.*\n|\s)*(?:FROM|\Z)", text[len(derived.text) :])


@given(write_dockerfiles(), st.sampled_from(["blue", '$x "y" \\z']))
def test_deriving_any_dockerfile_twice_is_the_same_as_once(text: str, colour: str) -> None:
    values = {"COLOUR": colour, "BASE_IMAGE": "debian:12"}
    once, _ = derive(text, **values)
    assert derive(once.text, **values)[0] == once
