"""The task `dockerfile`: what is rendered for each target, and what is refused before anything is written."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from buildkit.command import StartCommand
from buildkit.errors import LocalError, SettingError
from buildkit.models import TARGETS
from buildkit.precedence import load_settings
from buildkit.reference import parse_reference
from buildkit.workspace import Workspace
from tests.rendering import PROJECT, SHA, VERSION, Tree, read_instructions, render, write_dockerfile

if TYPE_CHECKING:
    from pathlib import Path

STAGES = {
    "binary": [
        "uv-tool",
        "lock",
        "deps",
        "sources",
        "builder",
        "outline",
        "analysis",
        "binary-builder",
        "base-minimal",
        "acp-node",
        "base-full",
        "binary",
    ],
    "binary-minimal": [
        "uv-tool",
        "lock",
        "deps",
        "sources",
        "builder",
        "outline",
        "analysis",
        "binary-builder",
        "base-minimal",
        "binary-minimal",
    ],
    "source": ["uv-tool", "lock", "deps", "sources", "builder", "base-minimal", "acp-node", "base-full", "source"],
    "source-minimal": ["uv-tool", "lock", "deps", "sources", "builder", "base-minimal", "source-minimal"],
}
every_target = pytest.mark.parametrize("target", TARGETS)


@every_target
def test_only_the_stages_that_the_target_needs_are_rendered_and_the_target_is_last(target: str) -> None:
    stages = re.findall(r"^FROM \S+ AS (\S+)$", render(target).text, re.MULTILINE)
    assert stages == STAGES[target]


def test_a_split_executable_is_two_files_the_large_one_below() -> None:
    text = render("binary-minimal", build_args={"SPLIT_EXECUTABLE": "true"}).text
    copied = re.findall(r'^COPY --from=(\S+) --chown=10001:10001 \["(\S+)", "(\S+)"\]$', text, re.MULTILINE)
    server = "openhands-agent-server"
    assert copied == [
        ("analysis", f"/dist/{server}", f"/usr/local/bin/{server}"),
        ("binary-builder", f"/dist/{server}.own", f"/usr/local/bin/{server}.own"),
    ]
    assert ".runtime-build/split.py" not in render("binary-minimal").text


@every_target
def test_the_images_own_stages_begin_with_the_base_image_and_all_others_with_the_builder_image(target: str) -> None:
    text = render(target).text
    origins = {stage: origin for origin, stage in re.findall(r"^FROM (\S+) AS (\S+)$", text, re.MULTILINE)}
    roots = {"${BASE_IMAGE}": "${BASE_IMAGE}", "${BUILDER_IMAGE}": "${BUILDER_IMAGE}"}
    for stage, origin in origins.items():
        roots[stage] = roots[origin]
    own = {stage for stage in origins if roots[stage] == "${BASE_IMAGE}"}
    assert own == {"base-minimal", "base-full", target} & origins.keys()
    assert "\nARG BUILDER_IMAGE=${BASE_IMAGE}\n" in text


@every_target
def test_another_builder_image_is_tried_on_the_base_image_before_anything_is_copied(target: str) -> None:
    text = render(target, builder_image=parse_reference("debian:12")).text
    assert '\nARG BUILDER_IMAGE="debian:12"\n' in text
    image = text[text.index(f" AS {target}\n") :]
    assert image.index("RUN --mount=type=bind,from=deps,") < image.index("COPY --from=")
    assert text.index("copy_python.py /agent-server/.python") < text.index("uv sync --frozen")


@every_target
def test_only_those_who_ask_for_linked_layers_get_them_and_nothing_else_changes(target: str, tmp_path: Path) -> None:
    workspace = Workspace(tmp_path / "out")
    write_dockerfile(workspace, target, link_layers=True)
    linked = workspace.read("Dockerfile").decode()
    assert set(re.findall(r"^COPY .*--link .*--from=(\S+)", linked, re.MULTILINE)) >= {
        "binary-builder" if target.startswith("binary") else "builder"
    }
    assert linked.replace("--link ", "") == render(target).text


@every_target
def test_third_party_packages_are_installed_before_any_source_is_copied(target: str) -> None:
    text = render(target).text
    assert text.index("uv sync --frozen") < text.index("COPY . /sources/")
    before = text[: text.index("uv sync --frozen")]
    copies = [json.loads(line.removeprefix("COPY ")) for line in before.splitlines() if line.startswith("COPY [")]
    assert copies == [["pyproject.toml", "uv.lock", "./"]] + [[f"{m}/pyproject.toml", f"{m}/"] for m in PROJECT.members]


@every_target
def test_two_commits_differ_only_behind_the_last_layer(target: str) -> None:
    later = replace(VERSION, sha="f" * 40, short_sha="f" * 7, commit_time=1_800_000_000)
    one = read_instructions(render(target).text)
    other = read_instructions(render(target, version=later, tree=Tree(git_ref="next")).text)
    first = next(number for number, pair in enumerate(zip(one, other, strict=True)) if pair[0] != pair[1])
    assert {line.split()[0] for line in one[first:]} == {"ENV", "LABEL"}


@every_target
def test_nothing_is_used_that_one_of_the_engines_refuses(target: str) -> None:
    for line in read_instructions(render(target).text):
        assert "<<" not in line
        assert not re.match(r"(COPY|ADD) .*--(link|chmod|parents|exclude|checksum)", line)
        for mount in re.findall(r"--mount=(\S+)", line):
            known = r"type=cache,target=/var/cache/uv|type=bind,from=[a-z-]+,source=/[\w./-]+,target=/[\w./-]+"
            assert re.fullmatch(known, mount)
    assert "syntax=" not in render(target).text


@every_target
def test_no_argument_environment_or_label_is_named_like_a_secret(target: str) -> None:
    for line in read_instructions(render(target).text):
        if line.split()[0] in {"ARG", "ENV", "LABEL"}:
            names = re.findall(r"([\w.]+)=", line)
            assert not [name for name in names if re.search(r"(?i)key|token|secret|passw|credential", name)]


@every_target
def test_every_shell_fragment_is_accepted_by_sh(target: str) -> None:
    runs = [line for line in read_instructions(render(target).text) if line.startswith("RUN ")]
    assert len(runs) > 5
    for run in runs:
        shell = re.sub(r"^RUN (--mount=\S+ +)*", "", run)
        subprocess.run(["sh", "-n"], input=shell, text=True, check=True)


@every_target
def test_the_image_keeps_its_contract(target: str) -> None:
    lines = read_instructions(render(target).text)
    program = ["/usr/local/bin/openhands-agent-server"]
    if target.startswith("source"):
        program = ["/agent-server/.venv/bin/python", "-m", "openhands.agent_server"]
    assert f"ENTRYPOINT {json.dumps(['tini', '--', *program])}" in lines
    assert 'CMD ["--host", "0.0.0.0", "--port", "8000"]' in lines
    assert "USER openhands" in lines
    assert "WORKDIR /" in lines
    assert "EXPOSE 8000" in lines
    assert "ENV LANG=C.UTF-8 LC_ALL=C.UTF-8" in lines
    assert lines[-2] == f'ENV OPENHANDS_BUILD_GIT_SHA="{SHA}" OPENHANDS_BUILD_GIT_REF="main"'
    labels = dict(re.findall(r'org\.opencontainers\.image\.([a-z.]+)="([^"]*)"', lines[-1]))
    assert labels == {
        "title": "openhands-agent-server",
        "base.name": "${BASE_IMAGE}",
        "created": "2023-11-14T22:13:20+00:00",
        "version": "0506352-python",
        "revision": SHA,
    }


def test_names_of_another_server_replace_ours_everywhere() -> None:
    names = {"server_module": "acme.server", "server_name": "acme", "server_port": 9000}
    for target in TARGETS:
        rendered = render(target, **names)
        assert "openhands.agent_server" not in rendered.text.replace('as "openhands/agent_server', "")
        assert "openhands-agent-server" not in rendered.text + rendered.instructions
        assert "8000" not in rendered.text + rendered.instructions
        assert "docker build -t acme ." in rendered.instructions
        assert 'CMD ["agent-server-health", "9000"]' in rendered.text


def test_a_tree_without_commit_is_unknown_and_has_no_time() -> None:
    text = render(version=replace(VERSION, sha=None, short_sha="unknown", commit_time=None)).text
    assert 'OPENHANDS_BUILD_GIT_SHA="unknown"' in text
    assert "image.created" not in text


def test_a_dirty_tree_says_so_in_its_version() -> None:
    rendered = render(version=replace(VERSION, dirty=True))
    assert 'image.version="0506352-python-dirty"' in rendered.text
    assert "with uncommitted changes" in rendered.instructions


def test_features_can_be_switched_off_and_minimal_targets_have_none() -> None:
    only_desktop = render("source", features=frozenset({"desktop"})).text
    assert "novnc" in only_desktop
    assert "docker.io" not in only_desktop
    assert "VSCODE_URL" not in only_desktop
    for target in ("source-minimal", "binary-minimal"):
        assert not re.search("novnc|docker.io|VSCODE", render(target).text)


def test_development_packages_are_in_source_alone() -> None:
    assert [target for target in TARGETS if "build-essential" in render(target).text] == ["source"]
    assert [target for target in TARGETS if "--no-install-local --no-dev" not in render(target).text] == ["source"]


def test_extra_packages_are_installed_by_every_package_manager() -> None:
    text = render(extra_packages=("ripgrep", "libfoo2=1.2~rc1")).text
    # Four kinds install them; three ask with the same words what is there, and apk asks for each one.
    assert len(re.findall(r"\bripgrep 'libfoo2=1\.2~rc1'", text)) == 7


def test_build_arguments_replace_defaults_and_further_ones_reach_every_stage_that_runs_something() -> None:
    text = render(build_args={"UV_VERSION": "0.12.0", "PIP_INDEX_URL": "https://mirror.example/simple"}).text
    assert text.count('ARG UV_VERSION="0.12.0"\n') == 1
    assert text.count('ARG PIP_INDEX_URL="https://mirror.example/simple"\n') == 1
    assert text.count("ARG PIP_INDEX_URL\n") == 4


@pytest.mark.parametrize(
    ("value", "rendered"),
    [("plain", '"plain"'), ('a "b"', r'"a \"b\""'), ("$HOME", r'"\$HOME"'), ("a\\", r'"a\\"'), ("it's", '"it\'s"')],
)
def test_values_are_quoted_for_the_dockerfile(value: str, rendered: str) -> None:
    assert f"ARG NOTE={rendered}\n" in render(build_args={"NOTE": value}).text


@pytest.mark.parametrize(
    ("setting", "text"),
    [
        ("TARGET", "sources"),
        ("BASE_IMAGE", "x\nRUN evil"),
        ("BASE_IMAGE", "x$(id)"),
        ("BASE_IMAGE", "x y"),
        ("BUILD_ARGS", "A-B=1"),
        ("BUILD_ARGS", "A\n=1"),
        ("BUILD_ARGS", "é=1"),
        ("BUILD_ARGS", "A=1\nRUN evil"),
        ("BUILD_ARGS", "A=\x00"),
        ("BUILD_ARGS", "A=\u202e"),
        ("BUILD_ARGS", "API_KEY=1"),
        ("BUILD_ARGS", "github_token=1"),
        ("BUILD_ARGS", "DB_PASSWORD=1"),
        ("BUILD_ARGS", "SECRETS=1"),
        ("BUILD_ARGS", "INDEX=https://me:hush@mirror.example"),
        ("BUILD_ARGS", "BASE_IMAGE=x"),
        ("EXTRA_PACKAGES", "-y"),
        ("EXTRA_PACKAGES", "a;b"),
        ("FEATURES", "podman"),
        ("SERVER_MODULE", "a-b"),
        ("SERVER_MODULE", "a.b\n"),
        ("SERVER_NAME", "../x"),
        ("SERVER_PORT", "0"),
        ("SERVER_PORT", "65536"),
        ("IMAGE_NAME", "A b"),
    ],
)
def test_a_value_that_cannot_be_used_in_a_dockerfile_is_refused_by_name(
    tmp_path: Path, setting: str, text: str
) -> None:
    with pytest.raises(SettingError) as caught:
        load_settings({setting: text}, {}, tmp_path, {})
    assert caught.value.exit_code == 2
    assert setting in caught.value.message
    assert "hush" not in caught.value.message + caught.value.fix


@pytest.mark.parametrize("url", ["https://me:hush@host/x", "https://host/x\nRUN evil"])
def test_a_source_url_that_cannot_be_a_label_is_refused(url: str) -> None:
    with pytest.raises(LocalError, match=r"\[project.urls\]") as caught:
        render(tree=Tree(project=PROJECT._replace(source_url=url)))
    assert "hush" not in caught.value.message + caught.value.fix


def test_the_projects_own_url_is_a_label() -> None:
    text = render(tree=Tree(project=PROJECT._replace(source_url="https://host/x"))).text
    assert 'org.opencontainers.image.source="https://host/x"' in text


@pytest.mark.parametrize("name", ["MONKEY", "KEYBOARD", "PATH_TO_AUTHORS", "TOKENIZERS_PARALLELISM", "_x9"])
def test_names_that_only_contain_such_a_word_are_taken(name: str) -> None:
    assert f'ARG {name}="1"' in render(build_args={name: "1"}).text


@pytest.mark.parametrize("target", ["binary", "binary-minimal"])
def test_a_binary_target_without_spec_is_given_one_that_has_the_projects_packages_in_full(target: str) -> None:
    rendered = render(target, tree=Tree(spec=None, project=PROJECT._replace(packages=("src/acme", "tool.py"))))
    assert 'ARG PYINSTALLER_SPEC="/opt/server.spec"' in rendered.text
    compile(rendered.programs["server.spec"], "server.spec", "exec")
    compile(rendered.programs["server.py"], "server.py", "exec")
    assert 'packages = ["acme", "tool"]' in rendered.programs["server.spec"]
    assert 'runpy.run_module("openhands.agent_server"' in rendered.programs["server.py"]
    assert not {"server.py", "server.spec"} & render(target).programs.keys()


def test_the_executable_of_a_program_starts_its_entry_point() -> None:
    command = StartCommand("uvicorn", ("app.main:app", "--port", "9000"))
    rendered = render("binary", tree=Tree(spec=None), server_command=command)
    compile(rendered.programs["server.spec"], "server.spec", "exec")
    assert 'entry_points(group="console_scripts", name="uvicorn")' in rendered.programs["server.py"]
    entrypoint = ["tini", "--", "/usr/local/bin/openhands-agent-server", "app.main:app", "--port", "9000"]
    assert f"ENTRYPOINT {json.dumps(entrypoint)}\nCMD []\n" in rendered.text


def test_a_script_cannot_be_an_executable() -> None:
    with pytest.raises(LocalError, match=r"runs a script: python manage\.py") as caught:
        render("binary", tree=Tree(spec=None), server_command=StartCommand("python", ("manage.py",)))
    assert caught.value.exit_code == 3
    assert "TARGET=source" in caught.value.fix


def test_a_member_whose_path_cannot_be_copied_is_refused() -> None:
    with pytest.raises(LocalError, match="cannot be used in a Dockerfile"):
        render(tree=Tree(project=PROJECT._replace(members=("a$b",))))


def test_the_instructions_name_this_archive_and_hold_no_time() -> None:
    instructions = render().instructions
    assert "tar -xzf agent-server-0506352-python.tar.gz -C agent-server-0506352-python" in instructions
    assert "docker build -t openhands-agent-server ." in instructions
    assert 'python openhands-agent-server -c "import openhands.agent_server"' in instructions
    assert not re.search(r"20\d\d-\d\d|\d\d:\d\d:\d\d", instructions)
    for block in re.findall(r"```sh\n(.*?)```", instructions, re.DOTALL):
        subprocess.run(["sh", "-n"], input=block, text=True, check=True)


def test_the_same_input_gives_the_same_bytes_and_their_digest() -> None:
    one = render("binary", build_args={"B": "2", "A": "1"})
    assert one == render("binary", build_args={"A": "1", "B": "2"})
    assert one.dockerfile_sha256 == hashlib.sha256(one.text.encode()).hexdigest()
