"""The Dockerfile derived from the source's own: what is filled in, what is left out, what stays as it is."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from buildkit.errors import LocalError, RuntimeBuildError, SettingError
from buildkit.rendering.copied import find_unpacked
from buildkit.steps.derive import derive_dockerfile, read_own_dockerfile

if TYPE_CHECKING:
    from collections.abc import Iterator

    from buildkit.steps.derive import DerivedDockerfile
    from tests.commands import Command

TEXTS = Path(__file__).parent / "dockerfiles"
TARGETS = ("binary", "binary-minimal", "source", "source-minimal")
STAGES = {
    "binary": ["builder", "binary-builder", "base-image-minimal", "base-image", "binary"],
    "binary-minimal": ["builder", "binary-builder", "base-image-minimal", "binary-minimal"],
    "source": ["builder", "base-image-minimal", "base-image", "source"],
    "source-minimal": ["builder", "base-image-minimal", "source-minimal"],
}
SHA = "0506352" + "a" * 33
REVISION = "OPENHANDS_BUILD_GIT_SHA OPENHANDS_BUILD_GIT_REF"


def read_text(name: str) -> str:
    """Return one of the texts in `dockerfiles`, its line ends as they are."""
    return (TEXTS / f"{name}.Dockerfile").read_bytes().decode()


def derive(text: str, target: str = "source", **changes: Any) -> tuple[DerivedDockerfile, list[str]]:
    """Return what was derived, and the warnings."""
    warnings: list[str] = []
    values = {"base_image": None, "build_args": {}, "sha": SHA, "git_ref": "main"} | changes
    derived = derive_dockerfile(text, source_name="docker/Dockerfile", target=target, warn=warnings.append, **values)
    return derived, warnings


def refuse(text: str, target: str = "source", **changes: Any) -> RuntimeBuildError:
    """Return the error that deriving ends in."""
    with pytest.raises(RuntimeBuildError) as caught:
        derive(text, target, **changes)
    return caught.value


@pytest.mark.parametrize("target", TARGETS)
def test_only_the_stages_that_the_target_needs_are_left_and_the_target_is_last(target: str) -> None:
    derived, _ = derive(read_text("workspace"), target)
    assert re.findall(r"^FROM \S+ AS (\S+)$", derived.text, re.MULTILINE) == STAGES[target]


def test_values_become_the_defaults_of_the_args_that_take_them() -> None:
    changes: dict[str, Any] = {"base_image": "debian:13", "build_args": {"ENABLE_VERTEX": "1", "RELEASE_TAG": "v2"}}
    derived, _ = derive(read_text("workspace"), **changes)
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


def test_all_but_values_and_unneeded_stages_stays_byte_for_byte() -> None:
    text = read_text("workspace")
    dropped, kept = text.index("\n# ---- the executable"), text.index("\nFROM ${BASE_IMAGE}")
    expected = text[:dropped] + text[kept : text.index("\nFROM base-image-minimal AS source-minimal")]
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


def test_stages_found_by_number_are_numbered_anew() -> None:
    derived, _ = derive(read_text("numbers"))
    assert re.findall(r"^(?:FROM|from) (\S+)", derived.text, re.MULTILINE) == [
        "alpine:3",
        "golang:1.23",
        "node:22",
        "alpine:3",
    ]
    assert "COPY --chown=1 --from=1 /go /go\nRUN --mount=type=bind,from=2,target=/assets cp" in derived.text
    assert 'COPY --from="2" \\\n     # Those of the image, too.\n' in derived.text
    assert "COPY --from=9 /x /y" in derived.text


def test_what_stands_in_a_heredoc_is_no_instruction() -> None:
    derived, _ = derive(read_text("heredocs"), build_args={"VERSION": "2"})
    assert "unused\nRUN" not in derived.text
    assert derived.text.count("ARG VERSION=inside\n") == 2
    assert derived.text.count('ARG VERSION="2"\n') == 1
    assert "COPY --from=unused /x /y\n" in derived.text


def test_values_are_escaped_as_the_escape_directive_says() -> None:
    derived, _ = derive(read_text("backticks"), build_args={"FOLDER": r"c:\`x`"}, base_image="debian:13")
    assert derived.text.startswith('# escape=`\nARG BASE_IMAGE="debian:13"\nFROM ${BASE_IMAGE} AS source\n')
    assert 'ARG FOLDER="c:\\``x``"\nCOPY pyproject.toml c:\\\nRUN dir `\n    c:\\\n' in derived.text


def test_stages_that_only_the_builder_can_tell_apart_are_all_kept() -> None:
    derived, _ = derive(read_text("platforms"))
    names = re.findall(r" AS (\S+)", derived.text)
    assert names == ["base-amd64", "base-arm64", "base", "source"]
    assert derived.base_image == "debian:trixie"
    derived, _ = derive(read_text("platforms"), build_args={"VARIANT": "other"})
    assert re.findall(r" AS (\S+)", derived.text) == ["other", "source"]


def test_args_of_every_form_take_their_values() -> None:
    values = {"COLOUR": '$1 "\\', "SIZE": "L", "WEIGHT": "two", "DEPTH": "3"}
    derived, _ = derive(read_text("arguments"), build_args=values)
    assert derived.text == (
        'ARG BASE_IMAGE\nARG COLOUR="\\$1 \\"\\\\" SHAPE SIZE="L"\nFROM ${BASE_IMAGE:-debian:13} AS source\n'
        'ARG COLOUR\nARG SIZE="L" \\\n    # Between them.\n    WEIGHT="two" DEPTH="3"\n'
        'ARG SHAPE COLOUR="\\$1 \\"\\\\"\nONBUILD ARG COLOUR=blue\nENV COLOUR=${COLOUR}\n'
    )
    assert derived.base_image == "debian:13"


def test_a_comment_that_comes_to_stand_first_becomes_no_directive() -> None:
    derived, _ = derive("FROM a AS unused\n# escape=`\nFROM b AS source\nRUN x \\\n  y\n")
    assert derived.text == "\n# escape=`\nFROM b AS source\nRUN x \\\n  y\n"
    assert derive(derived.text)[0] == derived


def test_images_from_elsewhere_and_values_without_effect_are_told() -> None:
    _, warnings = derive(read_text("workspace"), "source-minimal", build_args={"RELEASE_TAG": "v2"})
    images, unused = warnings
    assert images.endswith(": docker/dockerfile:1.7, python:3.13-bookworm, ghcr.io/astral-sh/uv:0.11.6")
    assert unused.endswith(": RELEASE_TAG")
    _, warnings = derive("FROM debian:13 AS source\n")
    assert [sorted(warning.split(": ")[1].split(", ")) for warning in warnings] == [sorted(REVISION.split())]


def test_a_value_that_no_arg_takes_is_refused_and_near_ones_are_named() -> None:
    error = refuse(read_text("workspace"), build_args={"ENABLE_VERTX": "1"})
    assert (error.exit_code, error.message) == (2, "docker/Dockerfile has no ARG ENABLE_VERTX")
    assert "ENABLE_VERTEX?" in error.fix
    error = refuse("FROM debian:13 AS source\n", base_image="debian:12")
    assert (error.exit_code, error.fix) == (2, "unset BASE_IMAGE, or declare it; it has none")


def test_a_target_that_is_no_stage_is_refused_and_the_stages_are_named() -> None:
    error = refuse("FROM a AS one\nFROM b\nFROM c AS two\n", "binary")
    assert error.exit_code == 2
    assert error.message.endswith("its stages: one, two")
    assert "AS binary" in error.fix


def test_a_target_is_found_in_any_case_and_the_last_of_that_name_counts() -> None:
    derived, _ = derive("FROM a AS Source\nFROM b AS SOURCE\nFROM c AS other\n")
    assert derived.text == "FROM b AS SOURCE\n"


@pytest.mark.parametrize(
    "changes",
    [
        {"build_args": {"UID": "1\nRUN evil"}},
        {"build_args": {"NPM_TOKEN": "x"}},
        {"build_args": {"UID": "https://me:you@example.com"}},
        {"build_args": {"BASE_IMAGE": "debian"}},
        {"build_args": {"UID=1 PORT": "x"}},
        {"base_image": "debian:13\nRUN evil"},
        {"git_ref": "main\nRUN evil"},
        {"sha": "x\r"},
    ],
    ids=str,
)
def test_values_that_cannot_stand_in_a_dockerfile_are_refused(changes: dict[str, Any]) -> None:
    error = refuse(read_text("workspace"), **changes)
    assert isinstance(error, SettingError)
    assert "you@" not in error.message + error.fix


@pytest.mark.parametrize("text", ["", "# nothing\n", "ARG A=1\n", "FROM\n", "FROM a AS source\nRUN <<EOF\n"])
def test_a_text_that_is_no_dockerfile_is_a_local_error(text: str) -> None:
    assert isinstance(refuse(text), LocalError)


def test_a_file_that_is_missing_or_no_text_or_outside_is_refused_and_named(tmp_path: Path) -> None:
    source = tmp_path / "src"
    source.mkdir()
    (source / "latin").write_bytes(b"FROM \xff\n")
    (tmp_path / "outside").write_text("FROM a\n")
    (source / "link").symlink_to(tmp_path / "outside")
    for path, kind in (("nope", LocalError), (".", LocalError), ("latin", LocalError)):
        with pytest.raises(kind, match=f"DOCKERFILE names '{re.escape(path)}'"):
            read_own_dockerfile(source, path)
    for path in ("../outside", "link", str(tmp_path / "outside")):
        with pytest.raises(SettingError, match="outside"):
            read_own_dockerfile(source, path)


def test_paths_that_the_context_will_not_hold_are_found() -> None:
    text = (
        "FROM a AS one\nARG X\n"
        "COPY --chown=1 pyproject.toml ./src/ missing.txt /x/\n"
        'ADD ["with space", "gone", "/x"]\n'
        "COPY *.toml *.lock src/*.py s[r]c/a?y /x\nCOPY . /x\n"
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
    ended = command.run("dockerfile", FEATURES="docker", SPLIT_EXECUTABLE="true").succeed()
    text = (command.output / "Dockerfile").read_text()
    instructions = (command.output / "BUILD_INSTRUCTIONS.md").read_text()
    assert re.findall(r"^FROM \S+ AS (\S+)$", text, re.MULTILINE) == STAGES["source"]
    assert 'ARG UID="7"' in text
    assert f"`{path}`" in instructions
    assert "python3.13-nodejs22-slim" in instructions
    assert command.read_state("dockerfile")["base_image"] == "nikolaik/python-nodejs:python3.13-nodejs22-slim"
    assert "wallpaper.svg; add it to INCLUDE" in ended.err
    assert "FEATURES" in ended.err
    assert "SPLIT_EXECUTABLE" in ended.err
    command.run("context").succeed()


@pytest.mark.parametrize(
    ("path", "code", "text"),
    [
        ("nope", 3, "DOCKERFILE"),
        ("../x", 2, "outside"),
        ("LICENSE", 3, "FROM"),
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


def list_links(text: str) -> Iterator[tuple[str, str, str]]:
    """Yield of each reference of a stage to another: the label of the one, how it refers, the label of the other."""
    labels: list[str] = []
    names: dict[str, str] = {}
    for block in re.split(r"^(?=FROM )", text, flags=re.MULTILINE)[1:]:
        base, _, name = block.splitlines()[0].removeprefix("FROM ").partition(" AS ")
        label = re.findall(r"^LABEL id=(.*)$", block, re.MULTILINE)[0]
        for source in [base, *re.findall(r"from=([^ ,]+)", block)]:
            number = int(source) if source.isdecimal() else None
            assert number is None or number < len(labels)
            yield label, "" if number is None else "#", names.get(source, source) if number is None else labels[number]
        labels.append(label)
        if name:
            names[name] = label


@settings(deadline=None)
@given(write_dockerfiles())
def test_every_stage_left_is_needed_and_refers_to_what_it_referred_to(text: str) -> None:
    derived, _ = derive(text)
    before, after = list(list_links(text)), list(list_links(derived.text))
    labels = re.findall(r"^LABEL id=(.*)$", derived.text, re.MULTILINE)
    assert after == [link for link in before if link[0] in labels]
    assert {link[2] for link in after if link[2].isdecimal()} == set(labels[:-1])
    last = re.findall(r"^FROM .*$", derived.text, re.MULTILINE)[-1]
    assert last.endswith(" AS source")


@settings(deadline=None)
@given(write_dockerfiles())
def test_no_line_changes_but_for_the_numbers_of_stages(text: str) -> None:
    derived, _ = derive(text)
    lines = iter(re.sub(r"from=\d+", "from=N", text).splitlines(keepends=True))
    assert all(line in lines for line in re.sub(r"from=\d+", "from=N", derived.text).splitlines(keepends=True))


@settings(deadline=None)
@given(write_dockerfiles(), st.sampled_from(["blue", '$x "y" \\z']))
def test_deriving_any_dockerfile_twice_is_the_same_as_once(text: str, colour: str) -> None:
    changes: dict[str, Any] = {"build_args": {"COLOUR": colour}, "base_image": "debian:12"}
    once, _ = derive(text, **changes)
    assert derive(once.text, **changes)[0] == once
