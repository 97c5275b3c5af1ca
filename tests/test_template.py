"""Templates and programs: overridden by name, extended by blocks, and refused by their lines."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from buildkit.errors import LocalError, SettingError
from buildkit.generated import read_generated
from buildkit.models import FEATURES, PROGRAMS, TARGETS
from buildkit.workspace import Workspace
from tests.rendering import read_instructions, render, write_dockerfile

every_target = pytest.mark.parametrize("target", TARGETS)


def write_template(folder: Path, text: str, name: str = "Dockerfile.j2") -> Path:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(text)
    return folder


def test_an_override_extends_the_template_of_its_own_name_and_fills_blocks(tmp_path: Path) -> None:
    override = '{% extends "Dockerfile.j2" %}{% block final %}LABEL team="{{ server_name }}"\n{% endblock %}'
    rendered = render(template_dir=write_template(tmp_path / "mine", override))
    lines = read_instructions(rendered.text)
    assert lines.index('LABEL team="openhands-agent-server"') == lines.index("USER openhands") - 1
    assert rendered.instructions == render().instructions


def test_an_override_that_has_changed_is_rendered_as_it_is_now(tmp_path: Path) -> None:
    for number in range(2):
        folder = write_template(tmp_path / "mine", f"FROM x:{number}\n")
        assert render(template_dir=folder).text == f"FROM x:{number}\n"


def test_every_block_is_named_at_the_top_of_the_template_and_can_be_added_to(tmp_path: Path) -> None:
    template = (Path(__file__).parents[1] / "templates" / "Dockerfile.j2").read_text()
    blocks = re.findall(r"{% block (\w+) %}", template)
    named = re.search(r"Blocks: ([\w, \n]+)\.", template)
    assert named is not None
    assert re.split(r",\s+", named[1]) == blocks
    everything = frozenset(FEATURES)
    for block in blocks:
        target = "binary" if block in {"analysis", "binary_builder"} else "source"
        override = f'{{% extends "Dockerfile.j2" %}}{{% block {block} %}}{{{{ super() }}}}ENV ADDED=1\n{{% endblock %}}'
        text = render(target, template_dir=write_template(tmp_path / "mine", override), features=everything).text
        assert text.count("ENV ADDED=1\n") == 1
        assert text.replace("ENV ADDED=1\n", "") == render(target, features=everything).text


@every_target
def test_the_dockerfile_has_no_program_in_it_and_the_programs_that_it_copies_are_written(target: str) -> None:
    rendered = render(target, build_args={"SPLIT_EXECUTABLE": "true"})
    used = {name for name in PROGRAMS if f".runtime-build/{name}" in rendered.text}
    assert "printf" not in rendered.text
    assert set(rendered.programs) == used
    binary = {"analyse.py", "bundle.py", "outline.py", "split.py"}
    own = binary if target.startswith("binary") else {"copy_python.py"}
    assert used == {"check_server.py", "health.sh", *own, *([] if target.endswith("minimal") else ["agents.sh"])}


@every_target
def test_each_program_is_copied_only_where_it_runs_and_never_with_the_source(target: str) -> None:
    text = render(target, build_args={"SPLIT_EXECUTABLE": "true"}).text
    stages = re.split(r"^FROM \S+ AS (\S+)$", text, flags=re.MULTILINE)[1:]
    copied = {
        (name, stage)
        for stage, lines in zip(stages[::2], stages[1::2], strict=True)
        for copy in re.findall(r"^COPY .*$", lines, re.MULTILINE)
        for name in re.findall(r"\.runtime-build/(\S+)", copy)
    }
    used = {
        "agents.sh": {"acp-node"},
        "check_server.py": {"builder"},
        "copy_python.py": {"deps"},
        "health.sh": {"base-minimal"},
        "outline.py": {"outline"},
        "analyse.py": {"analysis", "binary-builder"},
        "split.py": {"analysis"},
        "bundle.py": {"binary-builder"},
    }
    assert copied <= {(name, stage) for name, names in used.items() for stage in names}
    removed = "rm -rf /sources/Dockerfile /sources/BUILD_INSTRUCTIONS.md /sources/.runtime-build"
    assert f"COPY . /sources/\nRUN {removed}\n" in text


def test_a_program_can_be_overridden_alone_and_is_not_a_template(tmp_path: Path) -> None:
    (tmp_path / "mine/programs").mkdir(parents=True)
    folder = write_template(tmp_path / "mine", "#!/bin/sh\necho '{{ x }}'\n", "programs/health.sh")
    rendered = render(template_dir=folder)
    assert rendered.programs["health.sh"] == "#!/bin/sh\necho '{{ x }}'\n"
    assert rendered.programs.keys() == render().programs.keys()


def test_only_the_programs_that_the_dockerfile_copies_are_written(tmp_path: Path) -> None:
    override = write_template(tmp_path / "mine", "FROM x\nCOPY .runtime-build/split.py /opt/\n")
    assert set(render(template_dir=override).programs) == {"split.py"}


@pytest.mark.parametrize("name", ["Dockerfile.j2", "programs/health.sh"])
def test_a_fifo_among_the_templates_is_refused_and_never_opened(tmp_path: Path, name: str) -> None:
    (tmp_path / "programs").mkdir()
    os.mkfifo(tmp_path / name)
    with pytest.raises(SettingError, match="not a regular file"):
        render(template_dir=tmp_path)


def test_stale_programs_are_removed_and_what_is_packed_is_what_was_written(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path / "out")
    write_dockerfile(workspace, "binary")
    assert ".runtime-build/outline.py" in read_generated(workspace)
    write_dockerfile(workspace, "source")
    generated = read_generated(workspace)
    assert sorted(generated) == [
        ".runtime-build/agents.sh",
        ".runtime-build/check_server.py",
        ".runtime-build/copy_python.py",
        ".runtime-build/health.sh",
        "BUILD_INSTRUCTIONS.md",
        "Dockerfile",
    ]
    assert generated["Dockerfile"].decode() == render("source").text
    for name in ("health.sh", "Dockerfile"):
        workspace.remove(name)
        with pytest.raises(LocalError, match=f"{name}: No such file"):
            read_generated(workspace)


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("FROM x\n{{ nonsense }}\n", ["Dockerfile.j2, line 2", "nonsense"]),
        ("FROM x\n{% if %}\n", ["Dockerfile.j2, line 2"]),
        ("FROM x\n\n{{ 1 + 'a' }}", ["Dockerfile.j2, line 3"]),
        ("{{ 1 | nofilter }}", ["Dockerfile.j2, line 1", "nofilter"]),
        ('{% extends "gone.j2" %}', ["gone.j2"]),
        ('{% include "../gone.j2" %}', ["../gone.j2"]),
        ("{{ ''.__class__.__mro__ }}", ["Dockerfile.j2, line 1", "unsafe"]),
    ],
)
def test_a_wrong_template_is_named_with_its_line(tmp_path: Path, override: str, words: list[str]) -> None:
    with pytest.raises(SettingError) as caught:
        render(template_dir=write_template(tmp_path / "mine", override))
    assert all(word in caught.value.message for word in words), caught.value.message
    assert "TEMPLATE_DIR" in caught.value.fix
